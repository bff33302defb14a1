//! Rights that are taken away while they are in use.
