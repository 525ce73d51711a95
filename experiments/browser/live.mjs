// live.mjs MODULES CHROMIUM URL: reads the page of a run that is under way as one who waits for it does.
// Prints "grown" when the report has trials that it had not at first, and when the run has ended a line
// of JSON with the faults.

import { frames, launch, modules, open } from "./browser.mjs";

const [folder, path, url] = process.argv.slice(2);
const browser = await launch(modules(folder).chromium, path);
const page = await open(browser, url);
const faults = page.faults;

/** until reads something of the page, at each frame anew, until it is right. */
async function until(read, right) {
	for (;;) {
		const now = await page.evaluate(read);
		if (right(now)) return now;
		const { text } = await page.evaluate(header);
		if (/^The driver does not answer/.test(text)) throw new Error(`${text} The page has ${JSON.stringify(now)}.`);
		await frames(page);
	}
}

/** header runs in the page: how far it says that the run is. */
function header() {
	return { text: document.getElementById("state").textContent, bar: document.getElementById("bar").value / document.getElementById("bar").max };
}

/** report runs in the page: the trials of its report and what a reader has chosen in it, if there is one. */
function report() {
	const inside = document.getElementById("report").contentWindow;
	const { hookbed, scrollY, location } = inside;
	if (inside.document.readyState !== "complete" || !hookbed?.charts().length) return { trials: 0 };
	const trials = Math.max(...hookbed.charts().flatMap((id) => hookbed.points(id).map((p) => p.n)));
	return { trials, scale: hookbed.state().scale, scrollY, shown: location.search };
}

const before = await until(header, (h) => /^\d+ of \d+ trials/.test(h.text));
const first = await until(report, (r) => r.trials > 0);
// What is chosen while the next report is on its way must be in that one, too.
await page.route("**/report.html?*", async (route) => {
	await page.evaluate(() => {
		const inside = document.getElementById("report").contentWindow;
		inside.hookbed.set("", { scale: "log" });
		inside.scrollTo(0, 120);
	});
	await route.continue();
}, { times: 1 });
await until(report, (r) => r.trials > first.trials);
await frames(page); // the report follows its hash a task later
const grown = await until(report, (r) => r.trials > 0);
if (grown.scale !== "log") faults.push(`the report that has grown shows a scale that is ${grown.scale}: what was chosen is lost`);
if (grown.scrollY !== 120) faults.push(`the report that has grown is at ${grown.scrollY} px, not where it was`);
const after = await until(header, (h) => h.bar > before.bar);
console.log("grown");
await until(header, (h) => /^The run has ended/.test(h.text) && h.bar === 1);
const last = await until(report, (r) => r.trials > 0);
if (last.trials < grown.trials) faults.push(`the last report has ${last.trials} trials, one before had ${grown.trials}`);
console.log(JSON.stringify({ faults, trials: [first.trials, grown.trials, last.trials], progress: [before.text, after.text] }));
await browser.close();
