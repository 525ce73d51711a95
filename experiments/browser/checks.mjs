// The checks of a report. A visit opens it once and makes its checks on that page, in this order.
// A check takes the page, the report and {browser, axe}, and returns its faults as texts and what it
// measured. The names that they use are those of the page: its ids, its `data-` attributes and
// `window.hookbed`.

import { readFile, stat } from "node:fs/promises";

import { frames } from "./browser.mjs";
import { chips, clicks, downloads, exact, keyboard, remembers, searches } from "./explorer.mjs";

const desktop = { width: 1440, height: 900 };
const phone = { width: 390, height: 844 };
const fold = 900; // pixels that are seen before one scrolls

/** visits are the ways in which a report is opened, with the checks of each. */
export const visits = [
	{
		options: { ...desktop, scheme: "light" },
		checks: { opens, answers, small, fits, exact, narrow, coloured, dark, chips, searches, keyboard, clicks, downloads, remembers, compares, accessible, tables, prints },
	},
	{ options: { ...phone, scheme: "dark" }, checks: { "phone-answers": answers, "phone-fits": fits, "phone-accessible": accessible } },
	{ options: { ...phone, js: false }, checks: { plain } },
];

/** opens: no error and no request. Measures what the page weighs. */
async function opens(page, report) {
	const measured = await page.evaluate(() => {
		const [navigation] = performance.getEntriesByType("navigation");
		const paint = performance.getEntriesByType("paint").find((p) => p.name === "first-contentful-paint");
		return {
			nodes: document.querySelectorAll("*").length,
			screens: Math.round((10 * document.documentElement.scrollHeight) / innerHeight) / 10,
			firstPaintMs: Math.round(paint?.startTime ?? -1),
			loadedMs: Math.round(navigation.loadEventEnd),
			drawnMs: Math.round(performance.now()),
		};
	});
	measured.kilobytes = Math.round((await readFile(report.file)).length / 1024);
	return { faults: [], measured };
}

/** narrow: what is drawn on a wide screen fits a phone's when it is made so narrow. */
async function narrow(page, report) {
	const before = page.viewportSize();
	await page.setViewportSize(phone);
	await frames(page);
	const faults = [...(await answers(page, report)).faults, ...(await fits(page)).faults];
	await page.setViewportSize(before);
	await frames(page);
	return { faults };
}

/**
 * small: a report of many arms stays a page that one can read, and that is drawn fast: what takes
 * time is how many elements there are, and how many bytes.
 */
async function small(page, report) {
	const megabytes = (await stat(report.file)).size / 1e6;
	const faults = megabytes > 8 ? [`${megabytes.toFixed(1)} MB`] : [];
	const inPage = await page.evaluate(() => {
		const faults = [];
		const seen = (e) => e.checkVisibility({ contentVisibilityAuto: true, visibilityProperty: true });
		const nodes = document.querySelectorAll("*").length;
		if (nodes > 8_000) faults.push(`${nodes} elements`);
		const screens = document.documentElement.scrollHeight / innerHeight;
		if (screens > 25) faults.push(`${Math.round(screens)} screens high`);
		for (const p of document.querySelectorAll("main p, main li")) {
			if (!seen(p) || p.querySelector("ul, ol, table, svg")) continue;
			const lines = Math.round(p.getBoundingClientRect().height / parseFloat(getComputedStyle(p).lineHeight));
			if (lines > 10) faults.push(`a text of ${lines} lines: ${p.textContent.trim().slice(0, 60)}…`);
		}
		for (const list of document.querySelectorAll("main ul, main ol, main tbody")) {
			if (!seen(list)) continue;
			const rows = [...list.children].filter(seen);
			if (rows.length > 25 && list.getBoundingClientRect().height > innerHeight) faults.push(`${rows.length} rows unfolded in ${list.closest("[id]")?.id || list.tagName}`);
		}
		return faults;
	});
	return { faults: [...faults, ...inPage] };
}

/** answers: the answer, with numbers, and the first figure are in what is seen first. */
async function answers(page, report) {
	const faults = [];
	const { text, bottom, chart } = await page.evaluate(() => {
		const first = document.querySelector('p[id$="headline"]');
		return { text: first?.innerText, bottom: first?.getBoundingClientRect().bottom, chart: document.querySelector("[data-chart]")?.getBoundingClientRect().top };
	});
	if (!text) return { faults: ["there is no answer"] };
	if (bottom > fold) faults.push(`the answer ends at ${Math.round(bottom)} px`);
	if (report.numbers && !/\d/.test(text)) faults.push(`the answer has no number: ${text}`);
	if (report.numbers && page.viewportSize().width > 1000 && !(chart < fold)) faults.push(`the first figure begins at ${chart} px`);
	return { faults };
}

/** fits: nothing is wider than the screen, folded or unfolded. */
async function fits(page) {
	const faults = await page.evaluate(overflowing);
	await page.evaluate(() => document.querySelectorAll("details").forEach((d) => d.setAttribute("data-was", d.open)));
	await page.evaluate(() => document.querySelectorAll("details").forEach((d) => (d.open = true)));
	await frames(page);
	faults.push(...(await page.evaluate(overflowing)).map((f) => `unfolded: ${f}`));
	await page.evaluate(() => document.querySelectorAll("details").forEach((d) => (d.open = d.getAttribute("data-was") === "true")));
	await frames(page);
	return { faults };
}

/** overflowing runs in the page: what reaches over its right edge and cannot be scrolled alone. */
function overflowing() {
	const wide = document.documentElement.clientWidth;
	const scrolled = (e) => {
		for (let p = e.parentElement; p && p !== document.body; p = p.parentElement) {
			if (getComputedStyle(p).overflowX !== "visible") return true;
		}
		return false;
	};
	const faults = [];
	if (document.documentElement.scrollWidth > wide) faults.push(`the page scrolls sideways to ${document.documentElement.scrollWidth}`);
	for (const e of document.body.querySelectorAll("*")) {
		const box = e.getBoundingClientRect();
		if (box.width > 0 && box.height > 0 && box.right > wide + 1 && !scrolled(e)) {
			faults.push(`<${e.tagName.toLowerCase()} id="${e.id}" class="${e.getAttribute("class") ?? ""}"> reaches to ${Math.round(box.right)}: ${e.textContent.trim().slice(0, 40)}`);
		}
	}
	return faults.slice(0, 5);
}

/** accessible: axe-core finds nothing, with all folds open. */
async function accessible(page, report, { axe }) {
	await page.evaluate(() => document.querySelectorAll("details").forEach((d) => (d.open = true)));
	await frames(page);
	await page.evaluate(axe);
	const found = await page.evaluate(async () => {
		const { violations, passes } = await window.axe.run(document, { resultTypes: ["violations"] });
		return { violations, passes: passes.length };
	});
	const faults = found.violations.map((v) => {
		const [node] = v.nodes;
		const why = (node.any[0] ?? node.all[0] ?? node.none[0])?.message ?? "";
		return `${v.id} (${v.impact}, ${v.nodes.length} elements): ${v.help}: ${node.html.slice(0, 160)} ${why}`;
	});
	return { faults, measured: { axeViolations: faults.length, axeRulesPassed: found.passes } };
}

/** dark: what is written in figures can be read in both schemes, and follows a change. */
async function dark(page) {
	const faults = [];
	for (const scheme of ["light", "dark", "light"]) {
		await page.emulateMedia({ colorScheme: scheme });
		await frames(page);
		for (const f of await page.evaluate(unreadable)) faults.push(`${scheme}: ${f}`);
	}
	return { faults };
}

/** unreadable runs in the page: texts in charts with less contrast than WCAG 2.2 AA, 4.5. */
function unreadable() {
	const parse = (c) => (c.match(/[\d.]+/g) ?? []).map(Number);
	const light = (c) => {
		const [r, g, b] = c.map((v) => ((v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
		return 0.2126 * r + 0.7152 * g + 0.0722 * b;
	};
	const behind = (e) => {
		for (; e; e = e.parentElement) {
			const c = parse(getComputedStyle(e).backgroundColor);
			if (c.length === 3 || c[3] === 1) return c.slice(0, 3);
		}
		return [255, 255, 255];
	};
	const faults = [];
	for (const text of document.querySelectorAll("[data-chart] svg text")) {
		const style = getComputedStyle(text);
		const fill = parse(style.fill);
		if (!text.textContent.trim() || fill.length < 3) continue;
		const opacity = (fill[3] ?? 1) * parseFloat(style.fillOpacity) * parseFloat(style.opacity);
		const ground = behind(text.ownerSVGElement.parentElement);
		const seen = fill.slice(0, 3).map((v, i) => v * opacity + ground[i] * (1 - opacity));
		const [a, b] = [light(seen), light(ground)].sort((x, y) => y - x);
		const contrast = (a + 0.05) / (b + 0.05);
		if (contrast < 4.5) faults.push(`"${text.textContent.slice(0, 30)}" in a figure has a contrast of ${contrast.toFixed(1)}`);
	}
	return faults.slice(0, 3);
}

/** coloured: an arm's colour is that of its structure. Returns the colours, to compare reports by. */
async function coloured(page) {
	const { colours, list, hash } = await page.evaluate(() => {
		const colours = {};
		for (const b of document.querySelectorAll("button.arm[data-structure]")) {
			colours[b.dataset.arm] = `${b.dataset.structure} ${getComputedStyle(b.querySelector(".swatch") ?? b).backgroundColor}`;
		}
		const style = getComputedStyle(document.documentElement);
		return { colours, list: style.getPropertyValue("--c-linear"), hash: style.getPropertyValue("--c-hash") };
	});
	const faults = [];
	if (Object.keys(colours).length === 0) faults.push("no arm has a structure");
	if (!list || !hash || list === hash) faults.push(`lists are coloured ${list}, hashes ${hash}`);
	return { faults, colours };
}

/** compares: two runs are side by side. */
async function compares(page, report) {
	const heading = page.locator('[id$="compare"]').first();
	if ((await heading.count()) === 0 || !(await heading.isVisible())) return { faults: ["there is no comparison of the two runs"] };
	const text = await page.evaluate(() => document.body.innerText);
	return { faults: report.runs.filter((run) => !text.includes(run)).map((run) => `the page does not name the run ${run}`) };
}

/** tables: they sort by each column, up, down and back, and they filter. */
async function tables(page, report) {
	await page.evaluate(() => document.querySelectorAll("details").forEach((d) => (d.open = true)));
	await frames(page);
	const { faults, sorted, filtered } = await page.evaluate(tried);
	if (sorted === 0) faults.push("no table can be sorted");
	if (report.arms > 8 && filtered === 0) faults.push("no table can be filtered");
	return { faults: faults.slice(0, 6), measured: { columns: sorted, filters: filtered } };
}

/** tried runs in the page: uses each control of each table. */
function tried() {
	const faults = [];
	let sorted = 0;
	let filtered = 0;
	const number = (text) => parseFloat(text.replace(/^[^\d−-]*/, "").replace("−", "-"));
	const rows = (table) => [...table.tBodies[0].rows];
	const column = (table, i) => rows(table).map((r) => r.cells[i]?.textContent.trim() ?? "");
	const name = (table) => table.closest("[id]")?.id ?? "";
	for (const table of document.querySelectorAll(".scroll table")) {
		const first = rows(table).length; // of a long table the rest are no elements yet
		const more = table.parentElement.nextElementSibling?.matches('button[data-action="rows"]') ? table.parentElement.nextElementSibling : null;
		const all = more && !more.hidden ? Number(more.textContent.replace(/\D/g, "")) : first;
		const before = column(table, 0).join("|");
		[...table.tHead.rows[0].cells].forEach((th, i) => {
			const button = th.querySelector("button[data-sort]");
			if (!button && rows(table).length > 1) faults.push(`${name(table)}: column ${th.innerText} cannot be sorted`);
			if (!button || (i > 1 && i < table.tHead.rows[0].cells.length - 1)) return; // two columns and the last suffice
			sorted++;
			button.click();
			if (rows(table).length !== all) faults.push(`${name(table)}: ${rows(table).length} rows are sorted, not ${all}`);
			if (!["ascending", "descending"].includes(th.getAttribute("aria-sort"))) faults.push(`${name(table)}: aria-sort of ${th.innerText} is ${th.getAttribute("aria-sort")}`);
			if (th.classList.contains("r")) {
				const values = column(table, i).map(number).filter((v) => !Number.isNaN(v));
				const up = values.every((v, j) => j === 0 || values[j - 1] <= v);
				const down = values.every((v, j) => j === 0 || values[j - 1] >= v);
				if (!up && !down) faults.push(`${name(table)}: ${th.innerText} is not sorted: ${values.slice(0, 8)}`);
			}
			button.click();
			button.click();
			if (column(table, 0).slice(0, first).join("|") !== before) faults.push(`${name(table)}: three clicks on ${th.innerText} do not lead back`);
		});
	}
	for (const input of document.querySelectorAll("input[data-table-filter]")) {
		filtered++;
		const table = input.parentElement.nextElementSibling.querySelector("table");
		const all = rows(table).filter((r) => r.checkVisibility()).length;
		input.value = "no row has such a text";
		input.dispatchEvent(new Event("input", { bubbles: true }));
		if (rows(table).some((r) => r.checkVisibility())) faults.push(`${name(table)}: the filter does not filter`);
		input.value = "";
		input.dispatchEvent(new Event("input", { bubbles: true }));
		if (rows(table).filter((r) => r.checkVisibility()).length !== all) faults.push(`${name(table)}: an empty filter does not show all`);
	}
	return { faults, sorted, filtered };
}

/** prints: on paper nothing is cut, folds are open, figures are there and controls are not. */
async function prints(page, report) {
	const pdf = await page.pdf({ preferCSSPageSize: true, format: "A4", printBackground: true });
	const pages = (pdf.toString("latin1").match(/\/Type\s*\/Page\b/g) ?? []).length;
	await page.emulateMedia({ media: "print" });
	await page.setViewportSize({ width: await page.evaluate(paperWidth), height: 1000 });
	await page.evaluate(() => window.dispatchEvent(new Event("beforeprint")));
	await frames(page);
	const faults = await page.evaluate(cut);
	if (pages === 0) faults.push("the PDF has no page");
	const [content] = (await readFile(report.file, "utf8")).split("<script");
	const [written, printed] = [content.match(/<tr[ >]/g)?.length ?? 0, await page.locator(".scroll tr").count()];
	if (printed !== written) faults.push(`${printed} rows are printed, not ${written}`);
	return { faults, measured: { pdfPages: pages, pdfKilobytes: Math.round(pdf.length / 1024) } };
}

/** paperWidth runs in the page: the width of its A4 paper without the margins, in CSS pixels. */
function paperWidth() {
	const px = (text) => ({ mm: 96 / 25.4, cm: 96 / 2.54, in: 96, px: 1 })[text.replace(/[\d.]/g, "")] * parseFloat(text);
	let width = px("210mm");
	let margins = 2 * px("10mm");
	const rules = [...document.styleSheets].flatMap((s) => [...s.cssRules]).flatMap((r) => (r.cssRules && !(r instanceof CSSPageRule) ? [r, ...r.cssRules] : [r]));
	for (const rule of rules) {
		if (!(rule instanceof CSSPageRule)) continue;
		if (/landscape/i.test(rule.cssText)) width = px("297mm");
		if (rule.style.marginLeft) margins = px(rule.style.marginLeft) + px(rule.style.marginRight);
	}
	return Math.floor(width - margins);
}

/** cut runs in the page, laid out for print: what is cut off or folded. */
function cut() {
	const faults = [];
	const wide = document.documentElement.clientWidth;
	const seen = (e) => e.checkVisibility({ contentVisibilityAuto: true, visibilityProperty: true });
	for (const e of document.querySelectorAll("main *")) {
		const box = e.getBoundingClientRect();
		if (box.width <= 1 || !seen(e)) continue;
		if (box.right > wide + 1 && !e.closest("svg svg, svg g")) faults.push(`${e.tagName} reaches to ${Math.round(box.right)} of ${wide} px: ${e.textContent.trim().slice(0, 50)}`);
		if (getComputedStyle(e).overflowX !== "visible" && e.scrollWidth > e.clientWidth + 1 && e.tagName !== "svg") faults.push(`${e.tagName} is cut: ${e.scrollWidth} of ${e.clientWidth} px: ${e.textContent.trim().slice(0, 50)}`);
	}
	for (const row of document.querySelectorAll("main tbody tr")) {
		if (!seen(row)) {
			faults.push(`a row is folded: ${row.innerText.slice(0, 60)}`);
			break;
		}
	}
	if (![...document.querySelectorAll("figure svg")].some(seen)) faults.push("no figure is printed");
	const control = [...document.querySelectorAll("button:not(th button), input")].find(seen);
	if (control) faults.push(`a control is printed: ${control.outerHTML.slice(0, 80)}`);
	return [...new Set(faults)].slice(0, 6);
}

/** plain: without JavaScript the answer, the tables and the figures are there, and no control. */
async function plain(page, report) {
	const faults = await page.evaluate((numbers) => {
		const faults = [];
		const seen = (e) => e.checkVisibility({ contentVisibilityAuto: true, visibilityProperty: true });
		const need = (what, selector) => [...document.querySelectorAll(selector)].some(seen) || faults.push(`there is no ${what}`);
		need("title", "h1");
		need("answer", 'p[id$="headline"]');
		if (numbers) need("table", "table");
		if (numbers) need("figure", "figure svg");
		const control = [...document.querySelectorAll("button, input")].find(seen);
		if (control) faults.push(`there is a control, which does nothing: ${control.outerHTML.slice(0, 80)}`);
		return faults;
	}, report.numbers);
	for (const screen of [phone, desktop]) {
		await page.setViewportSize(screen);
		faults.push(...(await page.evaluate(overflowing)).map((f) => `${screen.width} px wide: ${f}`));
	}
	return { faults };
}
