// The checks of the explorers of a report: its filters, its two charts and what they draw.

import { readFile } from "node:fs/promises";

import { frames, using } from "./browser.mjs";

const inPart = (part) => `[data-part="${part}"]`;
const linesOf = (part) => (part ? `${part}-lines` : "lines");

/** parts are the names of the parts that have an explorer. There must be one. */
async function parts(page) {
	const found = await page.evaluate(() => [...document.querySelectorAll("[data-part]")].map((e) => e.dataset.part));
	if (found.length === 0) throw new Error("the page has no explorer");
	return found;
}

/** shown is what an explorer shows now, as one text: what a control must change. */
function shown(page, part) {
	return page.evaluate((part) => {
		const explorer = document.querySelector(`[data-part="${part}"]`);
		const charts = [...explorer.querySelectorAll("[data-chart]")].map(({ id }) => [window.hookbed.points(id), window.hookbed.axis(id)]);
		const texts = [...explorer.querySelectorAll("h3, [data-arms] > li, [data-status], [data-chart] svg text")].filter((e) => e.checkVisibility());
		return JSON.stringify([charts, texts.map((e) => e.textContent)]);
	}, part);
}

/**
 * press clicks on the first element of a selector that can be seen. It must not lie under another
 * one. This is cheaper than a click of the mouse, of which one is made on each chart.
 */
async function press(page, selector) {
	const problem = await page.evaluate((selector) => {
		const e = [...document.querySelectorAll(selector)].find((e) => e.checkVisibility({ visibilityProperty: true }));
		if (!e) return "cannot be seen";
		e.scrollIntoView({ block: "center" });
		const box = e.getBoundingClientRect();
		const top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
		if (!e.contains(top)) return `lies under ${top?.outerHTML.slice(0, 80)}`;
		e.click();
		return "";
	}, selector);
	if (problem) throw new Error(`${selector} ${problem}`);
	await frames(page);
}

/** type writes into the search. */
async function type(page, part, text) {
	await page.evaluate(([at, text]) => {
		const input = document.querySelector(`${at} input[data-search]`);
		input.value = text;
		input.dispatchEvent(new Event("input", { bubbles: true }));
	}, [inPart(part), text]);
	await frames(page);
}

function reset(page, part) {
	return press(page, `${inPart(part)} button[data-action="reset"]`);
}

/** armsOf are the names of the arms in the list that can be seen. */
function armsOf(page, part) {
	return page.evaluate((at) => [...document.querySelectorAll(`${at} button.arm`)].filter((b) => b.checkVisibility()).map((b) => b.dataset.arm), inPart(part));
}

/** chips: each control changes what is shown, filters show what they name, reset undoes it all. */
export async function chips(page, report) {
	const faults = [];
	let pressed = 0;
	for (const part of await parts(page)) {
		const first = await shown(page, part);
		const controls = await page.evaluate(
			(at) => [...document.querySelectorAll(`${at} button[data-filter], ${at} button[data-set]`)].map((b) => ({ kind: b.dataset.filter ? "filter" : "set", name: b.dataset.filter ?? b.dataset.set, value: b.dataset.value, on: b.getAttribute("aria-pressed") === "true" })),
			inPart(part),
		);
		for (const c of controls.filter((c) => !c.on)) {
			pressed++;
			const what = `${part} ${c.name} ${c.value}`.trim();
			const button = `${inPart(part)} button[data-${c.kind}="${c.name}"][data-value="${c.value}"]`;
			await press(page, button);
			if (!(await isPressed(page, button))) faults.push(`${what} is not pressed after a click`);
			if ((await shown(page, part)) === first) faults.push(`${what} changes nothing`);
			if (c.name === "structure") faults.push(...(await othersThan(page, part, c.value)));
			await reset(page, part);
			if ((await shown(page, part)) !== first) faults.push(`${what}: reset does not lead back`);
		}
		if ((await page.evaluate(() => location.hash)) !== "") faults.push("the hash is not empty after a reset");
	}
	if (report.arms > 1 && pressed < 3) faults.push(`only ${pressed} controls`);
	return { faults, measured: { controls: pressed } };
}

function isPressed(page, selector) {
	return page.evaluate((selector) => document.querySelector(selector).getAttribute("aria-pressed") === "true", selector);
}

/** othersThan are arms that are shown although they are not of a structure. */
function othersThan(page, part, structure) {
	return page.evaluate(
		([at, structure]) => {
			const shown = [...document.querySelectorAll(`${at} button.arm`)].filter((b) => b.checkVisibility());
			if (shown.length === 0) return [`no arm with structure ${structure}`];
			return shown.filter((b) => b.dataset.structure !== structure).map((b) => `structure ${structure} shows ${b.dataset.arm}`);
		},
		[inPart(part), structure],
	);
}

/** searches: the search leaves the arms that have its words, or says that there are none. */
export async function searches(page) {
	const faults = [];
	for (const part of await parts(page)) {
		const names = await armsOf(page, part);
		await type(page, part, names[0].toUpperCase());
		const left = await armsOf(page, part);
		if (!left.includes(names[0]) || left.some((n) => !n.toLowerCase().includes(names[0].toLowerCase()))) faults.push(`the search for ${names[0]} leaves ${left}`);
		await type(page, part, "no arm has such a name");
		if ((await armsOf(page, part)).length > 0) faults.push("a search without a hit leaves arms");
		if (!(await page.locator(`${inPart(part)} [data-empty]`).isVisible())) faults.push("a search without a hit does not say so");
		await press(page, `${inPart(part)} [data-empty] button`);
		if ((await armsOf(page, part)).length !== names.length) faults.push("the way back from an empty selection does not lead back");
	}
	return { faults };
}

/** keyboard: arms are reached, gone through and pinned without a mouse. */
export async function keyboard(page) {
	const faults = [];
	const [part] = await parts(page);
	const focused = () => page.evaluate(() => document.activeElement?.dataset?.arm ?? null);
	const names = await armsOf(page, part);
	await page.evaluate(() => document.activeElement?.blur());
	let presses = 0;
	while ((await focused()) === null && presses++ < 120) await page.keyboard.press("Tab");
	const first = await focused();
	if (first === null) return { faults: [`no arm has the focus after ${presses} presses of Tab`] };
	if (names.length > 1) {
		await page.keyboard.press("ArrowDown");
		if ((await focused()) === first) faults.push("ArrowDown does not move the focus");
		await page.keyboard.press("End");
		const last = await focused();
		if (last !== names[names.length - 1]) faults.push(`End leads to ${last}, not to ${names[names.length - 1]}`);
		await page.keyboard.press("Home");
		if ((await focused()) !== names[0]) faults.push("Home does not lead to the first arm");
	}
	for (const key of ["Enter", "Space"]) {
		const before = await pinned(page, part, names[0]);
		await page.keyboard.press(key);
		await frames(page);
		if ((await pinned(page, part, names[0])) === before) faults.push(`${key} does not pin or unpin ${names[0]}`);
		if ((await focused()) !== names[0]) faults.push(`${key} moves the focus away`);
	}
	const ring = await page.evaluate(() => {
		const s = getComputedStyle(document.activeElement);
		return (s.outlineStyle !== "none" && parseFloat(s.outlineWidth) > 0) || s.boxShadow !== "none";
	});
	if (!ring) faults.push("the focus cannot be seen");
	await reset(page, part);
	return { faults };
}

/** clicks: a click on a dot or a line pins its arm, even if the chart is drawn anew during it. */
export async function clicks(page) {
	const faults = [];
	for (const part of await parts(page)) {
		for (const id of await page.evaluate((at) => [...document.querySelectorAll(`${at} [data-chart]`)].map((c) => c.id), inPart(part))) {
			for (const during of [nothing, raised, drawnAnew]) {
				const fault = await clicked(page, part, id, during);
				if (fault) faults.push(`${id}, ${during.name}: ${fault}`);
				await reset(page, part);
			}
		}
	}
	return { faults };
}

// What happens while the button is down: nothing, the mark under the pointer is raised above the
// others, or all marks are replaced.
async function nothing() {}
const raised = frames;
async function drawnAnew(page) {
	await page.evaluate(() => window.dispatchEvent(new Event("resize")));
	await frames(page);
}

/** clicked clicks on a point of a chart, slowly. The result is a fault if its arm is pinned as before. */
async function clicked(page, part, id, during) {
	await settled(page, id);
	const { x, y, arm } = await page.evaluate((id) => {
		const points = window.hookbed.points(id);
		const box = document.getElementById(id).getBoundingClientRect();
		// One that no other point covers.
		const alone = (p) => points.every((o) => o.arm === p.arm || Math.hypot(o.x - p.x, o.y - p.y) > 12);
		const p = points.find((p) => alone(p) && !p.pinned) ?? points.find(alone) ?? points[0];
		return { x: box.x + p.x, y: box.y + p.y, arm: p.arm };
	}, id);
	const before = await pinned(page, part, arm);
	await page.mouse.move(x, y);
	await page.mouse.down();
	await during(page);
	await page.mouse.up();
	await frames(page);
	return (await pinned(page, part, arm)) === before ? `a click on a point of ${arm} does not pin it` : "";
}

/** settled brings a chart into view and waits until it stands still there. */
async function settled(page, id) {
	await page.locator(`#${id}`).scrollIntoViewIfNeeded();
	await page.evaluate(async (id) => {
		const frame = () => new Promise(requestAnimationFrame);
		const place = () => JSON.stringify(document.getElementById(id).getBoundingClientRect());
		for (let before = "", same = 0; same < 5; before = place()) {
			await frame();
			same = place() === before ? same + 1 : 0;
		}
	}, id);
}

/** pinned is whether an arm is pinned, in the list and in the charts of a part. */
function pinned(page, part, arm) {
	return page.evaluate(([at, arm]) => {
		const button = document.querySelector(`${at} button.arm[data-arm="${CSS.escape(arm)}"]`)?.getAttribute("aria-pressed") === "true";
		const charts = [...document.querySelectorAll(`${at} [data-chart]`)].map((c) => c.id);
		return `${button} ${charts.some((id) => window.hookbed.points(id).some((p) => p.arm === arm && p.pinned))}`;
	}, [inPart(part), arm]);
}

/** downloads: the selection as CSV has the points that are drawn, and the figure is an image alone. */
export async function downloads(page) {
	const faults = [];
	const [part] = await parts(page);
	const get = async (what) => {
		const [download] = await Promise.all([page.waitForEvent("download"), press(page, `${inPart(part)} button[data-action="${what}"]`)]);
		return { name: download.suggestedFilename(), text: await readFile(await download.path(), "utf8") };
	};
	const csv = await get("csv");
	const [header, ...lines] = csv.text.trim().split("\n");
	const drawn = await page.evaluate((id) => window.hookbed.points(id).length, linesOf(part));
	if (!csv.name.endsWith(".csv")) faults.push(`the CSV is named ${csv.name}`);
	if (!header.split(",").includes("arm")) faults.push(`the CSV's header is ${header}`);
	if (lines.length < drawn) faults.push(`the CSV has ${lines.length} lines for ${drawn} points`);
	const svg = await get("svg");
	const problem = await page.evaluate((text) => {
		const root = new DOMParser().parseFromString(text, "image/svg+xml").documentElement;
		if (root.tagName !== "svg") return `its root is ${root.tagName}`;
		return root.querySelector("text") ? "" : "it has no text";
	}, svg.text);
	if (problem) faults.push(`the SVG is not one: ${problem}`);
	if (/\bvar\(--|href="http/.test(svg.text)) faults.push("the SVG needs the page that it comes from");
	return { faults };
}

/** remembers: a page opened with the hash of another shows the same, and so does a page whose hash changes. */
export async function remembers(page, report, { browser }) {
	const faults = [];
	const names = await parts(page);
	const drawn = (page) => page.evaluate(() => JSON.stringify(window.hookbed.charts().map((id) => window.hookbed.points(id).map(({ arm, N, value, pinned }) => [arm, N, value, pinned]))));
	const state = (page) => page.evaluate((names) => JSON.stringify(names.map((n) => window.hookbed.state(n))), names);
	for (const part of names) await changeAll(page, part);
	const hash = await page.evaluate(() => location.hash);
	const want = { drawn: await drawn(page), state: await state(page) };
	if (!hash) faults.push("the hash is empty after changes");
	const same = async (page, when) => {
		if ((await state(page)) !== want.state) faults.push(`${when}, with ${hash}: the state is ${await state(page)}, not ${want.state}`);
		if ((await drawn(page)) !== want.drawn) faults.push(`${when}, with ${hash}: other points are drawn`);
	};
	await using(browser, report.file, { width: 1440, height: 900, hash }, async (anew) => {
		await same(anew, "opened anew");
		faults.push(...anew.faults);
	});
	for (const part of names) await reset(page, part);
	await page.evaluate((hash) => (location.hash = hash), hash);
	await frames(page);
	await same(page, "after a change of the hash");
	for (const part of names) await reset(page, part);
	return { faults };
}

/** changeAll presses the last button of each group, pins an arm and searches for a letter. */
async function changeAll(page, part) {
	const at = inPart(part);
	const last = await page.evaluate((at) => {
		const groups = {};
		for (const b of document.querySelectorAll(`${at} button[data-set], ${at} button[data-filter="scenario"], ${at} button[data-filter="workload"]`)) {
			const name = b.dataset.set ? "set" : "filter";
			groups[b.dataset[name]] = `${at} button[data-${name}="${b.dataset[name]}"][data-value="${b.dataset.value}"]`;
		}
		return Object.values(groups);
	}, at);
	for (const button of last) await press(page, button);
	await press(page, `${at} button.arm`);
	await type(page, part, "i");
}

/**
 * exact: every point of the lines is at its N and has its number. N is read from the labels of
 * the axis that are drawn, the number from report.json.
 */
export async function exact(page, report) {
	const said = JSON.parse(await readFile(report.json, "utf8"));
	const faults = [];
	let points = 0;
	for (const part of await parts(page)) {
		const at = inPart(part);
		const { summaries } = said.parts?.find((p) => p.clock === part) ?? said;
		const workloads = await page.evaluate((at) => [...document.querySelectorAll(`${at} button[data-filter="workload"]`)].map((b) => b.dataset.value), at);
		for (const workload of workloads.length ? workloads : [null]) {
			if (workload) await press(page, `${at} button[data-filter="workload"][data-value="${workload}"]`);
			for (const scale of ["lin", "log"]) {
				await press(page, `${at} button[data-set="x"][data-value="${scale}"]`);
				const drawn = await page.evaluate(drawnLines, linesOf(part));
				points += drawn.points.length;
				faults.push(...misplaced(drawn, scale), ...otherNumbers(drawn.points, summaries, await page.evaluate((p) => window.hookbed.state(p), part)));
			}
		}
		await reset(page, part);
	}
	if (points === 0) faults.push("no point is drawn");
	return { faults: [...new Set(faults)].slice(0, 8), measured: { points } };
}

/** drawnLines runs in the page: the points of a chart and the labels of its axis of N, in pixels of the chart. */
function drawnLines(id) {
	const chart = document.getElementById(id) ?? document.querySelector(`[data-chart="${id}"]`);
	const box = chart.getBoundingClientRect();
	const labels = [...chart.querySelectorAll("svg text")]
		.map((t) => ({ text: t.textContent.trim(), box: t.getBoundingClientRect() }))
		.filter((l) => /^[\d  ,.]+k?$/.test(l.text))
		.map((l) => ({ n: parseFloat(l.text.replace(/[  ,]/g, "")) * (l.text.endsWith("k") ? 1000 : 1), x: l.box.x + l.box.width / 2 - box.x, y: Math.round(l.box.y) }));
	const lowest = Math.max(...labels.map((l) => l.y));
	return { points: window.hookbed.points(id), labels: labels.filter((l) => Math.abs(l.y - lowest) <= 2), width: box.width };
}

/** misplaced are points that are not at their N, by the page's own reading and by the labels. */
function misplaced({ points, labels, width }, scale) {
	const most = Math.max(1, ...points.map((p) => p.N));
	const faults = points.filter((p) => !(Math.abs(p.drawnX - p.N) <= 1e-6 * most)).map((p) => `${scale}: ${p.arm}, N = ${p.N}, is drawn at ${p.drawnX}`);
	const used = labels.sort((a, b) => a.n - b.n);
	if (used.length < 2) return faults.concat(most > 1 ? [`${scale}: the axis of N has ${used.length} labels`] : []);
	const along = scale === "lin" ? (n) => n : Math.log1p; // N = 0 is on the logarithmic axis, too
	const [a, b] = [used[0], used[used.length - 1]];
	for (const p of points) {
		const x = a.x + ((along(p.N) - along(a.n)) / (along(b.n) - along(a.n))) * (b.x - a.x);
		if (Math.abs(x - p.x) > 0.01 * width) faults.push(`${scale}: ${p.arm}, N = ${p.N}, is at ${p.x.toFixed(0)} px; by the axis' labels that is at ${x.toFixed(0)} px`);
	}
	return faults;
}

/** otherNumbers are points whose numbers no summary of the shown workload and scenario has. */
function otherNumbers(points, summaries, state) {
	if (state.y !== "abs") return [`the lines show ${state.y}, not numbers`];
	const known = new Map();
	for (const s of summaries) {
		if (!s.median || s.workload !== state.workload || !s.scenario.startsWith(state.scenario)) continue;
		const key = `${s.arm} ${s.policies}`;
		known.set(key, [...(known.get(key) ?? []), s.median.estimate]);
	}
	const near = (p) => known.get(`${p.arm} ${p.N}`)?.some((v) => Math.abs(v - p.value) <= 1e-8 * Math.abs(v));
	return points.filter((p) => !near(p)).map((p) => `${p.arm}, N = ${p.N}: ${p.value} is no number of it in report.json`);
}
