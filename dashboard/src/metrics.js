// The text format of Prometheus, as far as the page needs it. Pure.

/** Returns the samples of a page of metrics, by name and labels as written. */
export function samples(page) {
  const found = new Map();
  for (const line of page.split("\n")) {
    const parts = line.match(/^([a-zA-Z_:][\w:]*(?:\{.*\})?) (\S+)$/);
    if (parts) found.set(parts[1], Number(parts[2]));
  }
  return found;
}
