// flames.mjs JOB: uses flame graphs as a reader does, one after the other in one Chromium, and prints a
// line of JSON for each: {file, frames, hits, faults}. The job is {modules, chromium, files, search}.

import { readFileSync } from "node:fs";

import { frames, launch, modules, using } from "./browser.mjs";

const job = JSON.parse(readFileSync(process.argv[2], "utf8"));
const browser = await launch(modules(job.modules).chromium, job.chromium);

/** seen is what a graph shows: its frames, each with its name, where it is and whether it is shown. */
function seen(page) {
	return page.evaluate(() => {
		const svg = document.documentElement;
		return {
			zoom: svg.getAttribute("data-zoom"),
			hits: Number(svg.getAttribute("data-hits")),
			said: svg.querySelector(".d").textContent,
			focus: document.activeElement?.querySelector?.("title")?.textContent.split("\n")[0],
			width: Number(svg.getAttribute("data-width")),
			frames: [...svg.querySelectorAll("g.f")].map((g) => {
				const r = g.querySelector("rect").getBoundingClientRect();
				const t = g.querySelector("text");
				const name = g.querySelector("title").textContent.split("\n")[0];
				const over = t?.textContent ? t.getBoundingClientRect().width - r.width : 0;
				return { name, x: r.x, y: r.y, w: r.width, over, shown: g.style.display !== "none", hit: g.classList.contains("hit"), miss: g.classList.contains("miss") };
			}),
		};
	});
}

/** drawn holds what is true of every view: names are within their frames, which are within their callers. */
function drawn(view, when, faults) {
	const shown = view.frames.filter((f) => f.shown);
	for (const f of shown.filter((f) => f.over > 1)) faults.push(`${when}: the name of ${f.name} is ${f.over.toFixed(1)} pixels wider than its frame`);
	const [root] = shown;
	for (const f of shown.filter((f) => f.x < root.x - 1 || f.x + f.w > root.x + root.w + 1)) faults.push(`${when}: ${f.name} is outside of the graph`);
}

async function used(page, search) {
	const faults = [];
	const expect = (is, what) => is || faults.push(what);
	const view = async (when) => {
		await frames(page);
		const v = await seen(page);
		drawn(v, when, faults);
		return v;
	};
	const first = await view("at first");
	const root = first.frames[0];
	expect(first.frames.every((f) => f.shown), "frames are hidden at first");

	// A click makes the frame as wide as the graph, and hides what is neither in it nor below it.
	const inner = first.frames.map((f, i) => [f, i]).filter(([f]) => f.w < root.w / 2 && f.w > 20).sort(([a], [b]) => b.w - a.w)[0];
	await page.locator("g.f").nth(inner[1]).click();
	const near = await view("after a click");
	expect(near.zoom === inner[0].name, `a click on ${inner[0].name} shows ${near.zoom}`);
	expect(Math.abs(near.frames[inner[1]].w - root.w) < 1, `${inner[0].name} is ${near.frames[inner[1]].w} pixels wide, the graph ${root.w}`);
	expect(near.frames.some((f) => !f.shown) && near.frames[0].shown, "what is in the frame is not shown apart from the rest");

	// Escape shows all again, by keyboard alone.
	await page.keyboard.press("Escape");
	const back = await view("after Escape");
	expect(back.frames.every((f, i) => f.shown && Math.abs(f.w - first.frames[i].w) < 1), "Escape does not show the whole graph as it was");

	// A search marks every frame whose name matches, and no other.
	await page.keyboard.press("/");
	await page.keyboard.type(search);
	const found = await view("after a search");
	const pattern = new RegExp(search, "i");
	const wrong = found.frames.filter((f) => f.hit !== pattern.test(f.name) || f.miss === f.hit);
	expect(wrong.length === 0, `a search for ${search} marks ${wrong.map((f) => f.name)} wrongly`);
	expect(found.hits === found.frames.filter((f) => f.hit).length, `a search finds ${found.hits} frames`);
	await page.keyboard.type("(");
	expect((await seen(page)).said.startsWith("not a regular expression"), "a search for what is no regular expression says nothing");
	await page.keyboard.press("Escape");
	const cleared = await view("after a search was given up");
	expect(!cleared.frames.some((f) => f.hit || f.miss), "Escape leaves what a search has marked");

	// Arrows move between frames, Enter zooms.
	const callee = (v) => v.frames.filter((f) => f.y !== root.y).some((f) => f.name === v.focus);
	const down = first.frames[1].y > root.y ? "ArrowDown" : "ArrowUp";
	await page.keyboard.press(down);
	const moved = await view("after an arrow");
	expect(callee(moved), `${down} moves to ${moved.focus}, which the root does not call`);
	await page.keyboard.press("Enter");
	expect((await view("after Enter")).zoom === moved.focus, "Enter does not zoom to the frame");
	return { frames: first.frames.length, hits: found.hits, faults };
}

for (const file of job.files) {
	const result = await using(browser, file, {}, async (page) => {
		let out;
		try {
			out = await used(page, job.search);
		} catch (e) {
			out = { faults: [`the graph could not be used: ${e.stack}`] };
		}
		out.faults.push(...page.faults);
		return out;
	});
	process.stdout.write(JSON.stringify({ file, ...result }) + "\n");
}
await browser.close();
