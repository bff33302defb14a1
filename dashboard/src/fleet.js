// What is decided about all devices, as it happens: the conflicts of each, and the feed of the activity view.
//
// Rejections are few and always followed. Accepted updates may be many: they are followed while somebody looks at them.

import { Changes } from "./changes.js";
import { shadowOf } from "./live.js";

const FEED_MAX = 300;

export class Fleet extends Changes {
  constructor() {
    super();
    /** Newest first. */
    this.feed = [];
    this.counts = { accepted: 0, rejected: 0 };
    /** The number of conflicts since the page was opened, by device. */
    this.conflicts = new Map();
    this.sequence = 0;
  }

  /** Follows rejections. Returns how to stop. */
  follow(live) {
    return this.followKind(live, "rejected");
  }

  /** Follows accepted updates, too. Returns how to stop. */
  followAccepted(live) {
    return this.followKind(live, "accepted");
  }

  followKind(live, kind) {
    const offs = ["shadow/+/update", "shadow/+/name/+/update"].map((update) => live.on(`${update}/${kind}`, (levels, message) => this.note(kind, levels, message)));
    return () => offs.forEach((off) => off());
  }

  note(kind, levels, message) {
    if (message === null) return;
    const { device, name } = shadowOf(levels);
    this.counts = { ...this.counts, [kind]: this.counts[kind] + 1 };
    this.sequence += 1;
    this.feed.unshift({ key: this.sequence, kind, device, name, message });
    if (this.feed.length > FEED_MAX) this.feed.length = FEED_MAX;
    if (kind === "rejected" && message.code === 409) this.conflicts.set(device, (this.conflicts.get(device) ?? 0) + 1);
    this.touch();
  }


  conflictCount() {
    let all = 0;
    for (const count of this.conflicts.values()) all += count;
    return all;
  }
}
