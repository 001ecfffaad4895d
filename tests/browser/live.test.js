// What an operator sees happen while the page is open, without loading it anew: a small cluster grows, a GPU
// is lost, a node falls silent, a network refuses, the aggregator is away and comes back.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { Bed, CLUSTER_ID, until } from './bed.js';
import { LOOKS, capture, launch, overflow, rows, totals, visit } from './page.js';

const NODES = 12;
/** What the network says that refuses the cluster; its operators are not to be trusted with a browser. */
const REFUSAL = '<b>no</b> <script>alert(1)</script><img src=x onerror="alert(2)"> ask the operator';
/** What a browser says of a server that is away, or has nothing but probes yet; of its own connections, nobody can keep it. */
const AWAY = [/net::ERR_|status of 404/];

let bed;
let aggregator;
let browser;
let machines;
/** What reports the first machine again and again, as the test wants it. */
let first;

before(async () => {
  bed = new Bed('live', '');
  machines = await bed.fleet(['--list', '--nodes', `${NODES}`]);
  const target = await bed.aios('production', ['--policy-refuses', REFUSAL]);
  bed.write(
    'cluster.yaml',
    `cluster:\n  id: ${CLUSTER_ID}\n  regionId: lab\nexpect:\n  nodes: ${NODES}\ngpuLossHoldDown: 0s\ntargets:\n${target}`,
  );
  aggregator = await bed.aggregator(['--interval', '3s']);
  first = await reportFirst();
  browser = await launch();
});

after(async () => {
  await browser?.close().catch(() => {});
  await bed?.remove();
});

/** Lets the first machine report every second. */
async function reportFirst(...args) {
  return bed.keepReporting(aggregator, ['--nodes', `${NODES}`, '--only', machines[0].name, '--every', '1s', ...args]);
}

/** Holds that the document is the one that was opened, so that nothing was loaded anew. */
async function hold(page) {
  await page.evaluate(() => { window.sameDocument = true; });
  return async () => assert.equal(await page.evaluate(() => window.sameDocument), true, 'nothing was loaded anew');
}

/** Makes news: a machine's next report says that all is well again. */
async function change() {
  const { name } = machines.find((it) => it.kind === 'server');
  await bed.report(aggregator, ['--nodes', `${NODES}`, '--only', name, '--trouble', 'unknown-speed']);
}

const row = (page, name) => page.locator(`tr[data-node="${name}"]`);

test('a cluster of one node', async (t) => {
  for (const [look, options] of Object.entries(LOOKS)) {
    await visit(browser, t, options, async (page) => {
      await page.goto(aggregator.url);
      assert.deepEqual(await rows(page), [machines[0].name]);
      await capture(page, `overview-1-${look}`);
      assert.ok((await overflow(page)) <= 0, look);
    });
  }
});

test('reports arrive and the page shows them, a refusal too', async (t) => {
  await visit(browser, t, {}, async (page) => {
    await page.goto(aggregator.url);
    const isHeld = await hold(page);
    const target = page.locator('section[data-target=production]');
    assert.equal(await target.getAttribute('data-phase'), 'waiting');
    const silent = machines[NODES - 1].name;
    await bed.keepReporting(aggregator, [
      ...['--nodes', `${NODES}`, '--every', '1s'],
      ...['--silent', silent, '--silent', machines[0].name],
    ]);
    await until('all nodes', async () => (await rows(page)).length === NODES);
    const { document } = await aggregator.api('/v1/document');
    await until('the totals', async () => {
      const { nodes, gpus, memory } = await totals(page);
      return nodes === NODES && gpus === document.gpus.count && memory === document.memory;
    });

    await until('the refusal', async () => (await target.getAttribute('data-phase')) === 'refused');
    assert.ok((await target.innerText()).includes(REFUSAL), await target.innerText());
    assert.equal(await page.locator('img[src="x"], [onerror], main b').count(), 0, 'no element is made of it');
    await isHeld();
  });
});

test('typed text, the focus and the place survive what changes', async (t) => {
  await visit(browser, t, { viewport: { width: 1280, height: 500 } }, async (page) => {
    await page.goto(`${aggregator.url}/?sort=name`);
    const isHeld = await hold(page);
    await page.evaluate(() => window.scrollTo(0, 300));
    const place = await page.evaluate(() => window.scrollY);
    const link = page.locator('#nodes th a[href*="sort=memory"]');
    await link.focus();
    await page.evaluate(() => window.scrollTo(0, 300));
    const seen = async () => page.locator('#nodes time').first().getAttribute('datetime');
    const before_ = await seen();
    await change();
    await until('an update', async () => (await seen()) !== before_);
    assert.match(await page.evaluate(() => document.activeElement?.getAttribute('href') ?? ''), /sort=memory/);
    assert.ok(Math.abs((await page.evaluate(() => window.scrollY)) - place) < 5, 'the place is kept');

    const field = page.locator('[name=q]');
    await field.fill('worker');
    await until('the nodes', async () => (await rows(page)).every((name) => name.includes('worker')));
    await field.press('ArrowLeft');
    const later = await seen();
    await change();
    await until('another update', async () => (await seen()) !== later);
    assert.equal(await field.inputValue(), 'worker');
    const caret = await field.evaluate((it) => [it === document.activeElement, it.selectionStart]);
    assert.deepEqual(caret, [true, 5], 'the focus and the caret stay');
    assert.ok((await rows(page)).every((name) => name.includes('worker')), 'and so does the filter');
    await isHeld();
  });
});

test('a GPU is lost and shows, and comes back', async (t) => {
  const { name } = machines[0];
  await visit(browser, t, {}, async (page, context) => {
    const node = await context.newPage();
    await node.goto(`${aggregator.url}/nodes/${name}`);
    await page.goto(aggregator.url);
    await page.bringToFront();
    const isHeld = await hold(page);
    const { gpus } = await totals(page);
    const sound = await row(page, name).innerText();
    await first.stop();
    first = await reportFirst('--trouble', 'lost-gpu');
    await until('one GPU fewer', async () => (await totals(page)).gpus === gpus - 1);
    await until('the loss', async () => /lost/i.test(await row(page, name).innerText()));
    await node.bringToFront();
    await until('the loss on the page of the node', async () => /fallen off the bus/.test(await node.locator('main').innerText()));
    await page.bringToFront();
    await first.stop();
    first = await reportFirst('--sound');
    await until('all GPUs', async () => (await totals(page)).gpus === gpus);
    await until('no loss', async () => !/lost/i.test(await row(page, name).innerText()) && sound.length > 0);
    await isHeld();
  });
});

test('a node falls silent and shows first', async (t) => {
  const silent = machines[NODES - 1].name;
  await visit(browser, t, {}, async (page) => {
    await page.goto(aggregator.url);
    await until('the stale node, first', async () =>
      (await row(page, silent).getAttribute('data-stale')) !== null && (await rows(page))[0] === silent);
    assert.match(await row(page, silent).innerText(), /stale|silent/i);
    await page.goto(`${aggregator.url}/?show=stale`);
    await until('it alone', async () => (await rows(page)).join() === silent);
    const isHeld = await hold(page);
    await bed.keepReporting(aggregator, ['--nodes', `${NODES}`, '--only', silent, '--every', '1s']);
    await until('no stale node', async () => (await rows(page)).length === 0);
    await isHeld();
  });
});

test('the aggregator is away, and the page says so until it is back', async (t) => {
  await visit(browser, t, { expected: AWAY }, async (page) => {
    await page.goto(aggregator.url);
    const isHeld = await hold(page);
    const live = page.locator('#live');
    assert.equal(await live.getAttribute('role'), 'status');
    await until('the connection', async () => /^Live/.test(await live.innerText()));
    const connected = await live.innerText();
    await first.stop();
    await aggregator.daemon.stop();
    await until('it to be told', async () => /lost|connection|reach|answer/i.test(await live.innerText()) && (await live.innerText()) !== connected);
    assert.equal((await rows(page)).length, NODES, 'what was known stands');
    await capture(page, 'overview-connection-lost');
    const { intake, admin } = aggregator;
    aggregator = await bed.aggregator(['--interval', '3s'], { intake, admin });
    await until('it to be back', async () => /^Live/.test(await live.innerText()));
    // What happens from now on shows again.
    const { gpus } = await totals(page);
    first = await reportFirst('--trouble', 'lost-gpu');
    await until('one GPU fewer', async () => (await totals(page)).gpus === gpus - 1);
    await isHeld();
  });
});

test('a connection that dies without a word is told of', async (t) => {
  await visit(browser, t, { expected: AWAY }, async (page) => {
    await page.clock.install();
    // First the news alone stay away, as with a proxy that keeps them back.
    const body = await (await fetch(`${aggregator.url}/`)).text();
    await page.route(`${aggregator.url}/`, (route) => route.fulfill({ contentType: 'text/html', body }));
    await page.goto(aggregator.url);
    const isHeld = await hold(page);
    const said = () => page.locator('#live').innerText();
    await until('the connection', async () => /^Live/.test(await said()));
    // Its connections stay open, and nothing comes through them.
    aggregator.daemon.child.kill('SIGSTOP');
    try {
      // For less time than an answer may take: one may be under way.
      await page.clock.fastForward(16_000);
      await page.waitForTimeout(500);
      assert.match(await said(), /^Live/, 'it ticks every 15 s: 16 s without a word are nothing yet');
      await page.clock.fastForward(30_000);
      await until('no news to be told', async () => /^No live news/.test(await said()));
      await page.unroute(`${aggregator.url}/`);
      await page.clock.fastForward(16_000);
      await page.clock.fastForward(21_000);
      await until('it to be told', async () => /lost/i.test(await said()));
      assert.match(await page.locator('#as-of').innerText(), /^As of \d{4}-/, 'and from when it is');
      assert.equal((await rows(page)).length, NODES, 'what was known stands');
    } finally {
      aggregator.daemon.child.kill('SIGCONT');
    }
    await page.clock.fastForward(20_000);
    await until('it to be back', async () => /^Live/.test(await said()));
    await isHeld();
  });
});

test('answers that take longer than from one change to the next still show', async (t) => {
  await visit(browser, t, {}, async (page) => {
    await page.addInitScript(() => {
      window.EventSource = class extends EventSource {
        constructor(...how) {
          super(...how);
          setInterval(() => this.dispatchEvent(new Event('changed')), 1000);
        }
      };
    });
    await page.goto(aggregator.url);
    await until('the connection', async () => /^Live/.test(await page.locator('#live').innerText()));
    await page.route(`${aggregator.url}/`, async (route) => {
      await sleep(2500);
      await route.continue().catch(() => {});
    });
    const seen = () => page.locator('#as-of time').getAttribute('datetime');
    for (const time of ['one', 'another']) {
      const before_ = await seen();
      await until(`${time} update`, async () => (await seen()) !== before_);
    }
  });
});

test('nothing is asked while nobody looks', async (t) => {
  await visit(browser, t, {}, async (page) => {
    await page.goto(aggregator.url);
    await until('the connection', async () => /^Live/.test(await page.locator('#live').innerText()));
    // A tab in the background, as the browser tells its page; nodes report every second meanwhile.
    await page.evaluate(() => {
      Object.defineProperty(document, 'visibilityState', { value: 'hidden', configurable: true });
      Object.defineProperty(document, 'hidden', { value: true, configurable: true });
      document.dispatchEvent(new Event('visibilitychange'));
    });
    await page.waitForTimeout(1000);
    let asked = 0;
    page.on('request', () => { asked += 1; });
    await page.waitForTimeout(3500);
    assert.equal(asked, 0);
    await page.evaluate(() => {
      delete document.visibilityState;
      delete document.hidden;
      document.dispatchEvent(new Event('visibilitychange'));
    });
    await until('it to be looked at again', () => asked > 0);
  });
});

test('HTML and script in a report show as text', async (t) => {
  const hostile = '<img src=x onerror="document.title=1"><script>alert(1)</script>"\'&lt;</td>';
  const [machine] = await bed.fleet(['--print', '--nodes', '1', '--seed', '99']);
  // Every text that a report may hold, below the names that are bound to a syntax.
  const spoil = (value, key) => {
    if (typeof value === 'string') {
      const isFree = !['attachment', 'kind', 'link', 'computeCapability', 'subject', 'uuid'].includes(key) && value !== 'absent';
      return isFree ? `${value} ${hostile}` : value;
    }
    if (Array.isArray(value)) return value.map((it) => spoil(it, key));
    if (value === null || typeof value !== 'object') return value;
    return Object.fromEntries(Object.entries(value).map(([name, it]) => [name, spoil(it, name)]));
  };
  const name = 'hostile-1';
  const report = {
    ...machine,
    agent: { version: `0.1.0 ${hostile}` },
    node: { ...machine.node, name, proposedId: name },
    inventory: spoil(machine.inventory, ''),
    passedOver: spoil(machine.passedOver, ''),
  };
  report.inventory.swap = { failed: { reason: `/proc/swaps ${hostile}` } };
  for (const id of [hostile, 'a<b', '"><script>']) {
    const refused = await aggregator.post({ ...report, node: { ...report.node, name: 'hostile-2', proposedId: id } });
    assert.equal(refused.status, 400, `an id of ${id}: ${refused.body}`);
  }
  const taken = await aggregator.post(report);
  assert.equal(taken.status, 200, taken.body);
  await visit(browser, t, {}, async (page) => {
    for (const path of ['/', `/?q=${encodeURIComponent(hostile)}`, '/?sort=gpus', `/nodes/${name}`, '/targets/production']) {
      await page.goto(`${aggregator.url}${path}`);
      await page.waitForTimeout(200);
      const made = await page.evaluate(() => ({
        title: document.title,
        images: document.querySelectorAll('img[src="x"]').length,
        handlers: document.querySelectorAll('[onerror]').length,
        scripts: [...document.querySelectorAll('script')].filter((it) => !it.src).map((it) => it.textContent),
      }));
      assert.deepEqual({ ...made, title: made.title !== '1' }, { title: true, images: 0, handlers: 0, scripts: [] }, path);
    }
    await page.goto(`${aggregator.url}/nodes/${name}`);
    const text = await page.locator('main').innerText();
    for (const said of [report.inventory.gpus.known.nvidiaDriver.known.gpus[0].model, report.inventory.swap.failed.reason]) {
      assert.ok(text.includes(said), `${said} is not in ${text}`);
    }
  });
});
