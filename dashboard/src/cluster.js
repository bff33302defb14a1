// What the service says of its cluster, in the words of the page. Pure.

/** Returns what is not the same at a node and others: the names, without the version, which has a column of its own. */
export function differencesAt(node, { differences }) {
  return differences.filter(({ name, nodes }) => name !== "version" && nodes.some((same) => same.includes(node))).map(({ name }) => name);
}

/** Returns the state of a node: its word, and if that is good. */
export function nodeState({ alive, left }) {
  if (left) return { word: "has left", good: false };
  return alive ? { word: "alive", good: true } : { word: "not heard of", good: false };
}

/** Returns a time in milliseconds as people read it. */
export function duration(milliseconds) {
  return milliseconds < 10_000 ? `${(milliseconds / 1000).toFixed(1)} s` : `${Math.round(milliseconds / 1000)} s`;
}
