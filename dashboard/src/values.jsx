// A value before and after a change, as the editor, the merge dialog and the history show it.

import { shown } from "./format.js";

/** A value before and after. */
export function Values({ before, after }) {
  return (
    <>
      {before !== undefined && <del>{shown(before)}</del>} {after === undefined ? <em>removed</em> : <ins>{shown(after)}</ins>}
    </>
  );
}
