// shoot.mjs MODULES CHROMIUM REPORT.html FOLDER: pictures of a report for the documents, as WebP: on
// a desktop, in dark, on a phone, and on paper.

import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { frames, launch, modules, using } from "./browser.mjs";

const [folder, path, report, out] = process.argv.slice(2);
const shots = [
	{ name: "desktop", width: 1440, height: 1060 },
	{ name: "dark", width: 1440, height: 1060, scheme: "dark" },
	{ name: "phone", width: 390, height: 844 },
	{ name: "print", width: 1032, height: 703, print: true }, // A4 on its side, without margins of 12 mm
];

const browser = await launch(modules(folder).chromium, path);
await mkdir(out, { recursive: true });
for (const shot of shots) {
	await using(browser, report, shot, async (page) => {
		if (shot.print) {
			await page.emulateMedia({ media: "print" });
			await page.evaluate(() => window.dispatchEvent(new Event("beforeprint")));
		}
		await frames(page);
		const session = await page.context().newCDPSession(page);
		const { data } = await session.send("Page.captureScreenshot", { format: "webp", quality: 80 });
		await writeFile(join(out, `report-${shot.name}.webp`), Buffer.from(data, "base64"));
	});
}
await browser.close();
