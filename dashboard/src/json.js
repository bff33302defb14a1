// What JSON.parse takes without a word, and the service refuses.

const TOKENS = /"(?:[^"\\]|\\.)*"(\s*:)?|[{}[\]]|-?\d[\d.eE+-]*/g;

/** What is wrong with the JSON `text`: a key that an object has twice, or a number that would become another one. */
export function astray(text) {
  const open = [];
  for (const [token, colon] of text.matchAll(TOKENS)) {
    if (token === "{" || token === "[") {
      open.push(new Set());
    } else if (token === "}" || token === "]") {
      open.pop();
    } else if (colon) {
      const key = token.slice(0, -colon.length);
      const name = JSON.parse(key);
      if (open.at(-1).has(name)) return `The key ${key} is there twice.`;
      open.at(-1).add(name);
    } else if (!token.startsWith('"') && !isExact(token)) {
      return `The number ${token} cannot be kept exactly.`;
    }
  }
  return undefined;
}

function isExact(token) {
  const number = Number(token);
  if (!Number.isFinite(number)) return false;
  return !/^-?\d+$/.test(token) || String(number) === token || BigInt(token) === BigInt(number);
}
