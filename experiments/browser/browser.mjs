// How the tests drive Chromium: one process, many pages, and everything on a page that is not
// allowed recorded. All waiting is for events.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const patience = 600_000; // ms for any single event, on a computer that is busy

const flags = [
	"--no-sandbox", // tests run as root
	"--disable-gpu",
	"--disable-quic",
	"--no-first-run",
	"--disable-background-networking",
	"--disable-component-update",
	"--disable-sync",
	"--disable-dev-shm-usage",
	"--force-color-profile=srgb",
	"--hide-scrollbars",
];

/** modules loads the packages that `make deps` has put into a folder. */
export function modules(folder) {
	const require = createRequire(pathToFileURL(folder + "/"));
	return {
		chromium: require("playwright-core").chromium,
		axe: readFileSync(require.resolve("axe-core/axe.min.js"), "utf8"),
	};
}

/** launch starts the browser. It ends with this process: it reads its commands from a pipe of it. */
export function launch(chromium, path) {
	return chromium.launch({ executablePath: path, headless: true, args: flags, timeout: patience });
}

/**
 * open shows a file, or a URL, in a page of its own and waits until it is drawn. The page's `faults`
 * are its errors and its requests so far, of a URL those of any other server.
 *
 * Options: width and height in CSS pixels, scheme "light" or "dark", js false for none, hash.
 */
export async function open(browser, file, { width = 1440, height = 900, scheme = "light", js = true, hash = "" } = {}) {
	const context = await browser.newContext({ viewport: { width, height }, colorScheme: scheme, javaScriptEnabled: js, acceptDownloads: true, reducedMotion: "reduce" });
	context.setDefaultTimeout(patience);
	const page = await context.newPage();
	page.faults = [];
	const served = /^http:/.test(file);
	const url = served ? file : pathToFileURL(file).href;
	const own = (requested) => (served ? new URL(requested).origin === new URL(url).origin : requested.split("#")[0] === url);
	page.on("pageerror", (e) => page.faults.push(`page error: ${e.message}`));
	page.on("console", (m) => ["error", "warning"].includes(m.type()) && page.faults.push(`console: ${m.text()}`));
	page.on("crash", () => page.faults.push("the page crashed"));
	page.on("request", (r) => {
		if (!own(r.url()) && !/^(data|blob):/.test(r.url())) page.faults.push(`request: ${r.url()}`);
	});
	await page.goto(url + hash, { waitUntil: "load" });
	if (js) await page.evaluate(() => window.hookbed?.ready);
	return page;
}

/** using opens a page, has it used, and closes it. */
export async function using(browser, file, options, use) {
	const page = await open(browser, file, options);
	try {
		return await use(page);
	} finally {
		await page.context().close();
	}
}

/** frames waits until what was changed is on the screen. */
export function frames(page) {
	return page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
}
