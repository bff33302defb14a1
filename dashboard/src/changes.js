// Something that changes, and those who want to know: they are called at most once per frame.

export class Changes {
  listeners = new Set();
  scheduled = false;

  /** Has `listener` called when something changed. Returns how to stop. */
  onChange(listener) {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  touch() {
    if (this.scheduled) return;
    this.scheduled = true;
    requestAnimationFrame(() => {
      this.scheduled = false;
      for (const listener of this.listeners) listener();
    });
  }
}
