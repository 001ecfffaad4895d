// Five thousand nodes: what is shown is right, and how long it takes is told.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { Bed, CLUSTER_ID, PATIENCE, until } from './bed.js';
import { LOOKS, capture, compare, launch, overflow, rows, totals, visit } from './page.js';

const NODES = 5000;
/** Far above what is ever seen, also of a program that is not optimized on a busy machine; in milliseconds. */
const BOUND = 10_000;
/** How often each time is taken; the median is told. */
const TIMES = 5;

let bed;
let aggregator;
let browser;

before(async () => {
  bed = new Bed('large', '');
  const target = await bed.aios('production');
  bed.write(
    'cluster.yaml',
    `cluster:\n  id: ${CLUSTER_ID}\n  regionId: lab\nexpect:\n  nodes: ${NODES - NODES / 100}\ntargets:\n${target}`,
  );
  aggregator = await bed.aggregator(['--interval', '10m']);
  await bed.report(aggregator, ['--nodes', `${NODES}`]);
  await until('all nodes', async () => (await aggregator.api('/v1/nodes')).nodes.length === NODES);
  await aggregator.phase('production', 'registered', 4 * PATIENCE);
  browser = await launch();
});

after(async () => {
  await browser?.close().catch(() => {});
  await bed?.remove();
});

const median = (times) => [...times].sort((a, b) => a - b)[Math.floor(times.length / 2)];

test('five thousand nodes are all there', async (t) => {
  await visit(browser, t, {}, async (page) => {
    await page.goto(aggregator.url);
    const { document } = await aggregator.api('/v1/document');
    const shown = await totals(page);
    assert.equal(shown.nodes, document.nodes.count);
    assert.equal(shown.gpus, document.gpus.count);
    assert.equal(shown.memory, document.memory);
    const { nodes } = await aggregator.api('/v1/nodes');
    const names = nodes.map((node) => node.name).sort(compare);
    for (const number of [1, 25, NODES / 100]) {
      await page.goto(`${aggregator.url}/?sort=name&page=${number}`);
      assert.deepEqual(await rows(page), names.slice((number - 1) * 100, number * 100), `page ${number}`);
    }
  });
});

test('opening, sorting and filtering five thousand nodes', async (t) => {
  const times = { 'DOMContentLoaded': [], 'first rows': [], 'sorting': [], 'filtering': [], 'a node': [] };
  await visit(browser, t, {}, async (page) => {
    for (let time = 0; time < TIMES; time += 1) {
      let start = performance.now();
      await page.goto(aggregator.url, { waitUntil: 'commit' });
      await page.locator('tr[data-node]').first().waitFor();
      times['first rows'].push(performance.now() - start);
      await page.waitForLoadState('domcontentloaded');
      times.DOMContentLoaded.push(
        await page.evaluate(() => performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd),
      );

      start = performance.now();
      await page.locator('#nodes th a[href*="sort=memory"]').click();
      await page.locator('#nodes th[aria-sort=descending] a[href*="sort=memory"]').waitFor();
      times.sorting.push(performance.now() - start);

      start = performance.now();
      await page.locator('[name=q]').fill('mi300x-07');
      await page.locator('[name=q]').press('Enter');
      await until('the nodes', async () => (await rows(page)).every((name) => name.startsWith('mi300x-07')));
      times.filtering.push(performance.now() - start);

      start = performance.now();
      await page.goto(`${aggregator.url}/nodes/${(await rows(page))[0]}`);
      times['a node'].push(performance.now() - start);
    }
  });
  for (const [what, taken] of Object.entries(times)) {
    t.diagnostic(`${NODES} nodes, ${what}: median ${Math.round(median(taken))} ms, most ${Math.round(Math.max(...taken))} ms`);
    assert.ok(median(taken) < BOUND, `${what}: ${taken}`);
  }
});

test('five thousand nodes look as they should', async (t) => {
  for (const [look, options] of Object.entries(LOOKS)) {
    await visit(browser, t, options, async (page) => {
      await page.goto(aggregator.url);
      await capture(page, `overview-${NODES}-${look}`);
      assert.ok((await overflow(page)) <= 0, look);
    });
  }
});
