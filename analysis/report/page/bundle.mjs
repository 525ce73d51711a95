// Bundles src/ with the parts of Apache ECharts that it uses into bundle.js, one script for a
// <script> element, and writes the licences of what is in it and the digests of all of it.
// `make generate` runs this; the test of analysis/report holds bundle.sha256 to the files.

import { build } from "esbuild";
import { createHash } from "node:crypto";
import { appendFileSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";

const { metafile } = await build({
  entryPoints: ["src/main.js"],
  outfile: "bundle.js",
  bundle: true,
  minify: true,
  format: "iife",
  target: "es2022",
  charset: "ascii",
  legalComments: "none", // all of them are at the end
  metafile: true,
});

// Every package that has a file in the bundle, with its licence.
const packages = [...new Set(Object.keys(metafile.inputs).map((path) => /^node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(path)?.[1]).filter(Boolean))].sort();
const notices = packages.map((name) => {
  const dir = `node_modules/${name}`;
  const { version, license } = JSON.parse(readFileSync(`${dir}/package.json`, "utf8"));
  const files = readdirSync(dir, { recursive: true }).filter((f) => /^(licen[cs]es?\/)?(licen[cs]e|notice)[^/]*$/i.test(f) && statSync(`${dir}/${f}`).isFile()).sort();
  if (files.length === 0) throw new Error(`${name} has no licence file`);
  const texts = files.map((f) => readFileSync(`${dir}/${f}`, "utf8").replaceAll("\r", "").trim());
  return `== ${name} ${version} (${license})\n\n${texts.join("\n\n")}\n`;
});
const licenses = `The licences of what bundle.js is made of, in addition to hookbed's own.\n\n${notices.join("\n\n")}`;
writeFileSync("LICENSES.txt", licenses);
// Who passes a report on passes on the script, so the licences go with it.
appendFileSync("bundle.js", `/*\n${licenses}*/\n`);
// A parser of HTML would end the element there, or read another text than its digest is of.
if (/<\/script|<!--|[\r\0]/i.test(readFileSync("bundle.js", "utf8"))) throw new Error("bundle.js cannot stand in a <script> element");

// The lock names what to install by digest; where from is the registry's business.
const lock = JSON.parse(readFileSync("package-lock.json", "utf8"));
for (const entry of Object.values(lock.packages)) delete entry.resolved;
writeFileSync("package-lock.json", JSON.stringify(lock, null, 2) + "\n");

const sources = readdirSync("src").sort().map((name) => `src/${name}`);
const files = ["LICENSES.txt", "bundle.js", "bundle.mjs", "package-lock.json", "package.json", ...sources];
const digest = (path) => createHash("sha256").update(readFileSync(path)).digest("hex");
writeFileSync("bundle.sha256", files.map((path) => `${digest(path)}  ${path}\n`).join(""));
