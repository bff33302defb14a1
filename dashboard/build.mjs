// Builds the page into the folder that is given. The same sources and lock file make the same bytes.

import { copyFile, mkdir } from "node:fs/promises";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const out = process.argv[2] ?? "dist";
await mkdir(out, { recursive: true });

await build({
  absWorkingDir: here("."),
  entryPoints: { app: "src/main.jsx" },
  outdir: out,
  bundle: true,
  minify: true,
  format: "esm",
  target: ["chrome109", "firefox115", "safari16.4"],
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "none",
  charset: "utf8",
});
await build({ absWorkingDir: here("."), entryPoints: { app: "src/app.css" }, outdir: out, minify: true, charset: "utf8" });
for (const name of ["index.html", "icon.svg"]) await copyFile(here(`src/${name}`), `${out}/${name}`);
