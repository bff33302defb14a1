// Views of the list that were saved under a name, in this browser.

const KEY = "views";
const VIEWS_MAX = 50;

/** Returns the saved views: `{name, address}`, in the order in which they were saved. */
export function savedViews() {
  try {
    const views = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return Array.isArray(views) ? views.filter(({ name, address }) => typeof name === "string" && /^#\/(\?|$)/.test(address)) : [];
  } catch {
    return [];
  }
}

/** Saves a view; one of the same name is replaced. Returns all. */
export function saveView(name, address) {
  const others = savedViews().filter((view) => view.name !== name);
  return keep([...others, { name, address }].slice(-VIEWS_MAX));
}

export function removeView(name) {
  return keep(savedViews().filter((view) => view.name !== name));
}

function keep(views) {
  localStorage.setItem(KEY, JSON.stringify(views));
  return views;
}
