//! Password hashes: argon2id, as the PHC text `$argon2id$v=19$m=…,t=…,p=…$salt$hash`.
//!
//! New hashes have the cost that OWASP recommends, 19 MiB and two passes. A hash in a file states its own cost. The
//! cost is bounded here, so that a line in a file cannot exhaust the memory or CPU time of the server.

use std::fmt;

use argon2::{
    ARGON2ID_IDENT, Algorithm, Argon2, Block, Params, Version,
    password_hash::phc::{self, Output, ParamsString, Salt},
};
use ring::rand::{SecureRandom, SystemRandom};

/// Most bytes of a password. A longer one is refused without hashing.
pub const PASSWORD_BYTES_MAX: usize = 1_024;

/// Most memory of one hash, in KiB.
const MEMORY_KIB_MAX: u32 = 256 * 1_024;
/// Most passes over that memory.
const PASSES_MAX: u32 = 16;
/// Most lanes. They are computed one after another, without extra cost.
const LANES_MAX: u32 = 16;
/// Most bytes of a PHC text within these bounds.
const TEXT_BYTES_MAX: usize = 512;
/// Fewest bytes of a hash; a shorter one could match by chance.
const OUTPUT_BYTES_MIN: usize = 16;

/// The hash of one password.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash {
    params: Params,
    salt: Salt,
    output: Output,
}

/// An error for a hash that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// The text is not PHC text with a salt and a hash.
    #[error("the hash is not of the form $argon2id$v=19$m=…,t=…,p=…$salt$hash")]
    Form,
    /// The hash is of another function or version.
    #[error("the hash is not argon2id of version 19, which is the only one that is taken")]
    Function,
    /// The cost exceeds the bounds of the server or of the function.
    #[error("the hash has m={memory},t={passes},p={lanes}, but at most m=262144,t=16,p=16 are taken")]
    Cost {
        /// The memory in KiB.
        memory: u32,
        /// The number of passes.
        passes: u32,
        /// The number of lanes.
        lanes: u32,
    },
    /// The hash is too short to be secure.
    #[error("the hash is {0} bytes long, but must be at least 16")]
    Short(usize),
    /// The operating system provides no random bytes or no memory.
    #[error("cannot hash: {0}")]
    System(&'static str),
}

/// Working memory for hashing, reused by one thread.
#[derive(Default)]
pub(in crate::auth) struct Memory(Vec<Block>);

impl PasswordHash {
    /// Hashes `password` with a new salt, at the recommended cost.
    ///
    /// # Errors
    ///
    /// [`HashError::System`].
    pub fn new(password: &[u8]) -> Result<Self, HashError> {
        Self::costing(Params::DEFAULT_M_COST, Params::DEFAULT_T_COST, password)
    }

    /// Hashes `password` with a new salt, in `memory` KiB and `passes` over it.
    pub(in crate::auth) fn costing(memory: u32, passes: u32, password: &[u8]) -> Result<Self, HashError> {
        let params = Params::new(memory, passes, Params::DEFAULT_P_COST, Some(Params::DEFAULT_OUTPUT_LEN));
        let (params, salt) = (params.map_err(|_| HashError::Form)?, new_salt()?);
        let output = output(&params, &salt, Params::DEFAULT_OUTPUT_LEN, password, &mut Memory::default());
        Ok(Self { output: output.ok_or(HashError::System("no memory"))?, params, salt })
    }

    /// Parses PHC text.
    ///
    /// # Errors
    ///
    /// A [`HashError`] that says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, HashError> {
        let parsed = Some(text).filter(|text| text.len() <= TEXT_BYTES_MAX);
        let parsed = parsed.and_then(|text| phc::PasswordHash::new(text).ok()).ok_or(HashError::Form)?;
        if parsed.algorithm != ARGON2ID_IDENT || parsed.version != Some(Version::V0x13.into()) {
            return Err(HashError::Function);
        }
        let params = Params::try_from(&parsed).map_err(|_| HashError::Form)?;
        let (memory, passes, lanes) = (params.m_cost(), params.t_cost(), params.p_cost());
        if memory > MEMORY_KIB_MAX || passes > PASSES_MAX || lanes > LANES_MAX {
            return Err(HashError::Cost { memory, passes, lanes });
        }
        let (Some(salt), Some(output)) = (parsed.salt, parsed.hash) else { return Err(HashError::Form) };
        if output.len() < OUTPUT_BYTES_MIN {
            return Err(HashError::Short(output.len()));
        }
        Ok(Self { params, salt, output })
    }

    /// Returns a hash that no password matches and that costs as much to check as `self`.
    pub(in crate::auth) fn imaginary(&self) -> Result<Self, HashError> {
        let output = Output::new(&vec![0; self.output.len()]).map_err(|_| HashError::Form)?;
        Ok(Self { params: self.params.clone(), salt: new_salt()?, output })
    }

    /// Returns the cost of a check, for comparison.
    pub(in crate::auth) fn cost(&self) -> u64 {
        u64::from(self.params.m_cost()) * u64::from(self.params.t_cost())
    }

    /// Returns true if `password` matches. Takes the time of a hash in either case, tens of milliseconds.
    pub(in crate::auth) fn matches(&self, password: &[u8], memory: &mut Memory) -> bool {
        let found = output(&self.params, &self.salt, self.output.len(), password, memory);
        found.is_some_and(|found| found == self.output) // compares in constant time
    }
}

impl fmt::Display for PasswordHash {
    /// Writes PHC text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let params = ParamsString::try_from(&self.params).map_err(|_| fmt::Error)?;
        phc::PasswordHash {
            algorithm: ARGON2ID_IDENT,
            version: Some(Version::V0x13.into()),
            params,
            salt: Some(self.salt),
            hash: Some(self.output),
        }
        .fmt(f)
    }
}

impl fmt::Debug for PasswordHash {
    /// Hides hashes, as in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PasswordHash").finish_non_exhaustive()
    }
}

fn new_salt() -> Result<Salt, HashError> {
    let mut bytes = [0; Salt::RECOMMENDED_LENGTH];
    SystemRandom::new().fill(&mut bytes).map_err(|_| HashError::System("no random bytes"))?;
    Salt::new(&bytes).map_err(|_| HashError::Form)
}

/// Computes the hash; `None` if the parameters do not fit each other, or there is no memory.
fn output(params: &Params, salt: &Salt, length: usize, password: &[u8], memory: &mut Memory) -> Option<Output> {
    let blocks = memory.blocks(params.block_count())?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
    let mut failed = false;
    let output = Output::init_with(length, |output| {
        failed = argon2.hash_password_into_with_memory(password, salt, output, blocks).is_err();
        Ok(())
    });
    output.ok().filter(|_| !failed)
}

impl Memory {
    fn blocks(&mut self, count: usize) -> Option<&mut [Block]> {
        let missing = count.saturating_sub(self.0.len());
        self.0.try_reserve_exact(missing).ok()?;
        self.0.resize(self.0.len().max(count), Block::default());
        self.0.get_mut(..count)
    }
}

#[cfg(test)]
pub(in crate::auth) mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;

    /// Returns a hash of `password` at almost no cost.
    pub(in crate::auth) fn cheap(password: &str) -> PasswordHash {
        PasswordHash::costing(8, 1, password.as_bytes()).unwrap()
    }

    #[test]
    fn a_hash_round_trips() {
        let hash = PasswordHash::new("pässword".as_bytes()).unwrap();
        let text = hash.to_string();
        assert!(text.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{text}");
        let read = PasswordHash::parse(&text).unwrap();
        assert_eq!(read, hash);
        let mut memory = Memory::default();
        for (password, right) in [("pässword", true), ("password", false), ("", false)] {
            assert_eq!(read.matches(password.as_bytes(), &mut memory), right, "{password:?}");
        }
        assert_ne!(PasswordHash::new("pässword".as_bytes()).unwrap(), hash, "the salt is another");
        assert_eq!(format!("{hash:?}"), "PasswordHash { .. }");
    }

    #[test]
    fn memory_is_reused_for_hashes_of_another_cost() {
        let mut memory = Memory::default();
        for blocks in [64, 8, 128, 8] {
            let hash = PasswordHash::costing(blocks, 1, b"x").unwrap();
            assert!(hash.matches(b"x", &mut memory) && !hash.matches(b"y", &mut memory), "{blocks}");
        }
    }

    /// Made by argon2-cffi 25.1, Python: `PasswordHasher(time_cost=3, memory_cost=1024, parallelism=4).hash(…)`.
    #[test]
    fn hashes_of_another_implementation_are_accepted() {
        let hash = PasswordHash::parse(FOREIGN).unwrap();
        assert!(hash.matches("correct horse".as_bytes(), &mut Memory::default()));
        assert!(!hash.matches("correct hors".as_bytes(), &mut Memory::default()));
        assert_eq!(hash.to_string(), FOREIGN);
    }

    #[test]
    fn an_unusable_hash_is_reported() {
        let sound = cheap("x").to_string();
        let with = |from: &str, to: &str| sound.replace(from, to);
        let (salt, output) = ("AAAAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
        let form = "the hash is not of the form $argon2id$v=19$m=…,t=…,p=…$salt$hash";
        let function = "the hash is not argon2id of version 19, which is the only one that is taken";
        for (text, detail) in [
            (with("argon2id", "argon2i"), function),
            (with("argon2id", "scrypt"), function),
            (with("v=19", "v=16"), function),
            (with("$v=19", ""), function),
            (with("m=8,", "m=262145,"), "the hash has m=262145,t=1,p=1, but at most m=262144,t=16,p=16 are taken"),
            (with("t=1,", "t=17,"), "the hash has m=8,t=17,p=1, but at most m=262144,t=16,p=16 are taken"),
            (
                with("m=8,", "m=4294967295,"),
                "the hash has m=4294967295,t=1,p=1, but at most m=262144,t=16,p=16 are taken",
            ),
            (with("m=8,", "m=42949672960,"), form),
            (with("m=8,", "m=7,"), form),
            (with("t=1,", "t=0,"), form),
            (with("p=1", "p=2"), form), // 8 blocks are too few for two lanes
            (with("p=1", "p=1,x=2"), form),
            (format!("$argon2id$v=19$m=8,t=1,p=1${salt}"), form),
            (
                format!("$argon2id$v=19$m=8,t=1,p=1${salt}$AAAAAAAAAAAAAAAAAAAA"),
                "the hash is 15 bytes long, but must be at least 16",
            ),
            (format!("$argon2id$v=19$m=8,t=1,p=1${salt}${output}$"), form),
            (format!("{sound}{}", "A".repeat(512)), form),
            ("hunter2".to_owned(), form),
            (String::new(), form),
        ] {
            let read = PasswordHash::parse(&text);
            assert_eq!(read.err().map(|error| error.to_string()).as_deref(), Some(detail), "{text}");
        }
    }

    #[test]
    fn an_imaginary_hash_costs_as_much_and_matches_nothing() {
        let hash = cheap("x");
        let imaginary = hash.imaginary().unwrap();
        assert_eq!((imaginary.params.clone(), imaginary.output.len()), (hash.params.clone(), hash.output.len()));
        for password in ["x", ""] {
            assert!(!imaginary.matches(password.as_bytes(), &mut Memory::default()));
        }
    }

    const FOREIGN: &str =
        "$argon2id$v=19$m=1024,t=3,p=4$SlYLvekoJ8aEhjRyRemEOg$JcxZadW0g7RJLCvVVR+XkfkA2kMhIq34FLKwletuGEs";
}
