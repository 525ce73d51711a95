// inspect.mjs JOB: runs the checks of a job in one Chromium and prints a line of JSON for each result.
// The job is {modules, chromium, reports: [{name, file, json, checks, arms, numbers, runs}]}.

import { readFileSync } from "node:fs";

import { launch, modules, using } from "./browser.mjs";
import { visits } from "./checks.mjs";

const atOnce = 2; // visits; more make a computer of two CPUs slower

const job = JSON.parse(readFileSync(process.argv[2], "utf8"));
const { chromium, axe } = modules(job.modules);
const browser = await launch(chromium, job.chromium);

/** checked runs one check. What it throws is a fault of the report, and so is what the page did. */
async function checked(page, report, name, check) {
	const began = performance.now();
	let found;
	try {
		found = await check(page, report, { axe, browser });
	} catch (e) {
		found = { faults: [`the check could not go on: ${e.stack}`] };
	}
	found.faults.push(...page.faults.splice(0));
	process.stdout.write(JSON.stringify({ report: report.name, check: name, ...found, seconds: (performance.now() - began) / 1000 }) + "\n");
}

/** visited opens a report in one way and runs the checks of it that the report must pass. */
async function visited(report, visit) {
	const wanted = Object.entries(visit.checks).filter(([name]) => report.checks.includes(name));
	if (wanted.length === 0) return;
	try {
		await using(browser, report.file, visit.options, async (page) => {
			for (const [name, check] of wanted) await checked(page, report, name, check);
		});
	} catch (e) {
		// The checks that have no result of their own fail by this one.
		process.stdout.write(JSON.stringify({ report: report.name, check: wanted[0][0], faults: [`the page could not be opened: ${e.stack}`] }) + "\n");
	}
}

const waiting = job.reports.flatMap((report) => visits.map((visit) => [report, visit]));
async function worker() {
	for (let next = waiting.shift(); next; next = waiting.shift()) await visited(...next);
}
await Promise.all(Array.from({ length: atOnce }, worker));
await browser.close();
