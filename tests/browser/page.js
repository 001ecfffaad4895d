// Drives the page in a real browser, and holds every load of it to what users may rely on: no error or
// warning on the console, no violation of the Content-Security-Policy (which the console tells), no dialog,
// no request to anywhere else.

import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { chromium } from 'playwright-core';

import { OUTPUT, PATIENCE } from './bed.js';

const BROWSER = '/usr/bin/chromium';

const ARGUMENTS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

/** Starts a browser. `hosts` maps further names to this machine. */
export async function launch({ hosts = [] } = {}) {
  const rules = hosts.map((host) => `MAP ${host} 127.0.0.1`).join(', ');
  const names = hosts.length === 0 ? [] : [`--host-resolver-rules=${rules}`];
  // With bars to scroll by, as people have them.
  const ignoreDefaultArgs = ['--hide-scrollbars'];
  return chromium.launch({ executablePath: BROWSER, args: [...ARGUMENTS, ...names], ignoreDefaultArgs });
}

/**
 * Opens a window for a test and closes it after it. A test that fails, or in which the page does what it may
 * not, leaves a screenshot and the page; with TRACE=1 in the environment, a trace, too (`npx playwright-core
 * show-trace FILE`), which takes its time.
 *
 * @param expected patterns of what may stand on the console in this test
 */
export async function visit(browser, test, { expected = [], ...options }, drive) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
  context.setDefaultTimeout(PATIENCE);
  const isTraced = Boolean(process.env.TRACE);
  if (isTraced) await context.tracing.start({ screenshots: true, snapshots: true });
  const faults = [];
  const page = await context.newPage();
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) {
      const text = `${message.text()} (${message.location().url})`;
      if (!expected.some((pattern) => pattern.test(text))) faults.push(`console: ${text}`);
    }
  });
  page.on('pageerror', (error) => faults.push(`page error: ${error.stack ?? error}`));
  page.on('dialog', (dialog) => {
    faults.push(`dialog: ${dialog.message()}`);
    dialog.dismiss().catch(() => {});
  });
  const origins = new Set();
  context.on('request', (request) => origins.add(new URL(request.url()).origin));
  const name = test.name.replace(/[^a-z0-9]+/gi, '-');
  try {
    await drive(page, context);
    assert.deepEqual(faults, []);
    const home = new URL(page.url()).origin;
    assert.deepEqual([...origins].filter((origin) => origin !== home), [], 'requests to elsewhere');
  } catch (error) {
    mkdirSync(OUTPUT, { recursive: true });
    await page.screenshot({ path: join(OUTPUT, `failed-${name}.png`) }).catch(() => {});
    await page.content().then((html) => writeFileSync(join(OUTPUT, `failed-${name}.html`), html), () => {});
    if (isTraced) await context.tracing.stop({ path: join(OUTPUT, `failed-${name}.zip`) });
    if (faults.length > 0) error.message += `\nand before that: ${faults.join('\n')}`;
    throw error;
  } finally {
    // What a test answers itself may be asked for at this moment, since the page keeps itself fresh: to fail at
    // a window that is gone is no fault of the page.
    await page.unrouteAll({ behavior: 'ignoreErrors' }).catch(() => {});
    await context.close();
  }
}

/** The names of the nodes in the table, in their order; those that are missing, too. */
export async function rows(page) {
  return page.$$eval('table#nodes tr[data-node], table#nodes tr[data-missing]', (found) =>
    found.map((row) => row.dataset.node ?? row.dataset.missing),
  );
}

/** The totals as numbers. */
export async function totals(page) {
  return page.$$eval('[data-total]', (found) =>
    Object.fromEntries(found.map((it) => [it.dataset.total, Number(it.dataset.value)])),
  );
}

/** How far the page is wider than its window, in pixels. */
export async function overflow(page) {
  return page.evaluate(() => {
    const { scrollWidth, clientWidth } = document.documentElement;
    return Math.max(scrollWidth, document.body.scrollWidth) - clientWidth;
  });
}

const PHONE = { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true };

/** Windows to look through. */
export const LOOKS = {
  'light-1280': { colorScheme: 'light' },
  'dark-1280': { colorScheme: 'dark' },
  'light-390': { colorScheme: 'light', ...PHONE },
  'dark-390': { colorScheme: 'dark', ...PHONE },
};

/** Takes a screenshot to be looked at. */
export async function capture(page, name, options = {}) {
  mkdirSync(OUTPUT, { recursive: true });
  await page.screenshot({ path: join(OUTPUT, `${name}.png`), ...options });
}

/** Numbers by their size, names as people count: node-9 before node-10. */
export function compare(a, b) {
  if (typeof a === 'number') return a - b;
  const padded = (name) => name.replaceAll(/\d+/g, (digits) => digits.padStart(12, '0'));
  return padded(a) < padded(b) ? -1 : Number(padded(a) > padded(b));
}
