// What an operator reads on the page of a cluster of two hundred nodes: with and without JavaScript, with a
// mouse, with a keyboard, with a screen reader, in light and dark, on a desk and on a phone.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdirSync, readFileSync, statSync } from 'node:fs';
import { createServer, get } from 'node:http';
import { createRequire } from 'node:module';
import { dirname } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { Bed, CLUSTER_ID, OPERATOR_TOKEN, until } from './bed.js';
import { Kubernetes } from './kubernetes.js';
import { LOOKS, capture, compare, launch, overflow, rows, totals, visit } from './page.js';

const NODES = 200;
/** Nodes of Kubernetes' that nobody reports for. */
const MISSING = ['worker-0901', 'worker-0902'];
/** What the network says that refuses the cluster. */
const REFUSAL = 'the region is full: ask its operator for a place';
/** Credentials that are not the operator's. */
const WRONG = { username: 'operator', password: 'not-the-operators-token-at-all' };
/** A page has so many rows. */
const PAGE = 100;

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

let bed;
let kubernetes;
let aggregator;
let browser;
/** The fleet's machines. */
let machines;

before(async () => {
  bed = new Bed('reading', '');
  machines = await bed.fleet(['--list', '--nodes', `${NODES}`]);
  const incomplete = machines.filter((it) => it.trouble === 'incomplete').length;
  kubernetes = await Kubernetes.start([...machines.map((it) => it.name), ...MISSING]);
  bed.write('kubeconfig', kubernetes.kubeconfig());
  const targets = await Promise.all([
    bed.aios('production'),
    bed.aios('lab', ['--policy-refuses', REFUSAL]),
    bed.aios('partner', [], '    mode: approve\n'),
  ]);
  bed.write(
    'cluster.yaml',
    `cluster:\n  id: ${CLUSTER_ID}\n  regionId: lab\nexpect:\n  nodes: ${NODES - incomplete}\ntargets:\n${targets.join('')}`,
  );
  // Nobody falls silent here for as long as this takes.
  const arguments_ = ['--kubernetes', '--kubeconfig', bed.path('kubeconfig'), '--namespace', 'rollcall'];
  aggregator = await bed.aggregator([...arguments_, '--interval', '10m']);
  await until('Kubernetes to be known', async () => (await aggregator.api('/v1/status')).kubernetes?.nodes);
  await bed.report(aggregator, ['--nodes', `${NODES}`]);
  await aggregator.phase('production', 'registered');
  await aggregator.phase('lab', 'refused');
  await aggregator.phase('partner', 'ready');
  browser = await launch({ hosts: ['rollcall.test', 'elsewhere.test'] });
});

after(async () => {
  await browser?.close().catch(() => {});
  await bed?.remove();
  await kubernetes?.close();
});

/** What a column holds of a node as the API shows it; `undefined`: it is not known. */
const COLUMNS = {
  name: (node) => node.name,
  cpus: (node) => node.entry?.vcpus.count,
  memory: (node) => node.entry?.memory,
  disk: (node) => node.entry?.storage.size,
  network: (node) => node.entry?.network.txBandwidth,
  gpus: (node) => node.entry?.gpus.count,
  seen: (node) => Date.parse(node.lastSeen),
};

/** With a script and without one, the same is to be read. */
for (const javaScriptEnabled of [true, false]) {
  const how = javaScriptEnabled ? 'with JavaScript' : 'without JavaScript';

  test(`totals are the document's, ${how}`, async (t) => {
    await visit(browser, t, { javaScriptEnabled }, async (page) => {
      await page.goto(aggregator.url);
      assert.equal(await page.title(), `${CLUSTER_ID} · rollcall`);
      const { document } = await aggregator.api('/v1/document');
      assert.deepEqual(await totals(page), {
        nodes: document.nodes.count,
        cpus: document.vcpus.count,
        memory: document.memory,
        swap: document.swap,
        disks: document.storage.disks,
        disk: document.storage.size,
        links: document.network.interfaces,
        bandwidth: document.network.txBandwidth,
        gpus: document.gpus.count,
        'gpu-memory': document.gpus.memory,
      });
    });
  });

  test(`every column sorts, both ways, ${how}`, async (t) => {
    const { nodes } = await aggregator.api('/v1/nodes');
    const known = new Map(nodes.map((node) => [node.name, node]));
    await visit(browser, t, { javaScriptEnabled }, async (page) => {
      await page.goto(aggregator.url);
      for (const [column, value] of Object.entries(COLUMNS)) {
        const heading = page.locator('#nodes th', { has: page.locator(`a[href*="sort=${column}"]`) });
        const seen = new Set();
        for (let turn = 0; turn < 2; turn += 1) {
          await heading.locator('a').click();
          await page.waitForURL((url) => url.searchParams.get('sort') === column);
          const order = await until(`${column} to be sorted by`, async () => {
            const sorted = await heading.getAttribute('aria-sort');
            return sorted !== null && sorted !== 'none' && !seen.has(sorted) && sorted;
          });
          seen.add(order);
          assert.equal(await page.locator('#nodes th[aria-sort]').count(), 1, 'one column is sorted by');
          // Through all pages once; the first one tells whether it is the right order.
          const names = await (column === 'name' ? allPages(page) : rows(page));
          if (column === 'name') {
            assert.equal(names.length, NODES + MISSING.length, `${column} ${order}`);
            assert.equal(new Set(names).size, names.length, `${column} ${order}: each once`);
          }
          const values = names.map((name) => known.get(name)).filter(Boolean).map(value);
          const told = values.filter((it) => it !== undefined);
          const expected = nodes.map(value).filter((it) => it !== undefined).sort(compare);
          if (order === 'descending') expected.reverse();
          assert.ok(told.length >= PAGE - MISSING.length, `${column} ${order}: what is not known comes last`);
          assert.deepEqual(told, expected.slice(0, told.length), `${column} ${order}`);
          await page.goto(`${aggregator.url}/?sort=${column}${order === 'descending' ? '&order=desc' : '&order=asc'}`);
        }
        assert.deepEqual([...seen].sort(), ['ascending', 'descending'], column);
      }
    });
  });

  test(`words and a choice filter, ${how}`, async (t) => {
    const { nodes } = await aggregator.api('/v1/nodes');
    const models = (node) => (node.entry?.gpus.gpus ?? []).map((gpu) => gpu.modelName).join(' ');
    const of = (trouble) => machines.filter((it) => it.trouble === trouble).map((it) => it.name);
    const cases = [
      { q: 'dgx', names: nodes.map((it) => it.name).filter((it) => it.includes('dgx')) },
      { q: 'H100', names: nodes.filter((it) => /h100/i.test(models(it))).map((it) => it.name) },
      { q: 'l40s render-003', names: ['render-003'] },
      { q: 'no-such-node', names: [] },
      { show: 'missing', names: MISSING },
      { show: 'stale', names: [] },
      { show: 'incomplete', names: of('incomplete') },
      { show: 'gpus', names: nodes.filter((it) => it.entry?.gpus.count > 0).map((it) => it.name) },
      { show: 'gpus', q: 'mi300x', names: nodes.map((it) => it.name).filter((it) => it.startsWith('mi300x')) },
    ];
    await visit(browser, t, { javaScriptEnabled }, async (page) => {
      for (const { q = '', show = 'all', names } of cases) {
        await page.goto(aggregator.url);
        const form = page.locator('form[role=search]');
        await form.locator('[name=show]').focus();
        await form.locator('[name=show]').selectOption(show);
        await form.locator('[name=q]').fill(q);
        await form.locator('[name=q]').press('Enter');
        await page.waitForURL((url) => (url.searchParams.get('q') ?? '') === q && (url.searchParams.get('show') ?? 'all') === show);
        // Before it is gone through: what was there before has other pages.
        await until(`the nodes of ${JSON.stringify({ q, show })}`, async () => {
          const said = await page.locator('[data-pages]').innerText();
          return Number(said.split(' of ').at(-1).replaceAll(',', '')) === names.length;
        });
        const found = await allPages(page);
        assert.deepEqual(found.sort(), [...names].sort(), JSON.stringify({ q, show }));
        await page.goto(`${aggregator.url}/?q=${q}&show=${show}`);
        assert.equal(await page.locator('[name=q]').inputValue(), q, 'the form shows what is looked for');
        assert.equal(await page.locator('[name=show]').inputValue(), show);
      }
    });
  });

  test(`what a person should look at comes first, ${how}`, async (t) => {
    await visit(browser, t, { javaScriptEnabled }, async (page) => {
      await page.goto(aggregator.url);
      const names = await rows(page);
      assert.deepEqual(names.slice(0, MISSING.length).sort(), [...MISSING].sort(), 'missing nodes first');
      // A NIC without a speed is an entry in the document that is complete, with a remark.
      const troubled = machines.filter((it) => it.trouble && it.trouble !== 'unknown-speed').map((it) => it.name);
      const next = names.slice(MISSING.length, MISSING.length + troubled.length);
      const strays = troubled.filter((name) => !next.includes(name));
      assert.ok(names.length === PAGE && strays.length <= 2, `${strays} are not among the first: ${next}`);
    });
  });

  test(`a node shows what it has, ${how}`, async (t) => {
    await visit(browser, t, { javaScriptEnabled }, async (page) => {
      const lost = machines.find((it) => it.trouble === 'lost-gpu').name;
      const node = (await aggregator.api('/v1/nodes')).nodes.find((it) => it.name === lost);
      await page.goto(`${aggregator.url}/?q=${lost}`);
      await page.locator(`tr[data-node="${lost}"] a`).first().click();
      await page.waitForURL(`**/nodes/${lost}`);
      assert.equal(await page.locator('main').getAttribute('data-page'), 'node');
      const text = (await page.locator('main').innerText()).replaceAll(/[\s,\u00a0\u202f]+/g, ' ');
      for (const said of [lost, node.entry.gpus.gpus[0].modelName, ...node.failing.map((it) => it.reason)]) {
        assert.ok(text.includes(said.replaceAll(/[\s,]+/g, ' ')), `${said} is not in: ${text}`);
      }
      assert.match(text, /lost|do(es)? not answer/i);
      await page.goBack();
      await page.waitForURL((url) => url.searchParams.get('q') === lost);
      assert.deepEqual(await rows(page), [lost]);
    });
  });

  test(`each target stands where the API says, with the network's words, ${how}`, async (t) => {
    await visit(browser, t, { javaScriptEnabled }, async (page) => {
      await page.goto(aggregator.url);
      const { targets } = await aggregator.api('/v1/status');
      const phases = await page.$$eval('section[data-target]', (found) =>
        Object.fromEntries(found.map((it) => [it.dataset.target, it.dataset.phase])),
      );
      assert.deepEqual(phases, { production: 'registered', lab: 'refused', partner: 'ready' });
      assert.match(await page.locator('section[data-target=lab]').innerText(), new RegExp(REFUSAL));
      assert.match(await page.locator('section[data-target=partner]').innerText(), /approv/i);
      for (const { name, url } of targets) {
        await page.goto(aggregator.url);
        await page.locator(`section[data-target="${name}"] a[href="/targets/${name}"]`).first().click();
        await page.waitForURL(`**/targets/${name}`);
        assert.equal(await page.locator('main').getAttribute('data-page'), 'target');
        const text = await page.locator('main').innerText();
        assert.ok(text.includes(name) && text.includes(new URL(url).host), text);
        if (name === 'lab') assert.ok(text.includes(REFUSAL), text);
        if (name === 'partner') assert.match(text, /rollcall-aggregator approve partner/);
      }
    });
  });
}

/** The names on this page and all that follow it. */
async function allPages(page) {
  const names = await rows(page);
  const range = page.locator('[data-pages]');
  for (let further = page.locator('a[rel=next]'); (await further.count()) > 0; ) {
    const said = await range.innerText();
    await further.first().click();
    await until('the next page', async () => (await range.innerText()) !== said);
    // Without a script it is another document, which may not be whole yet.
    await page.waitForLoadState();
    names.push(...(await rows(page)));
  }
  return names;
}

test('what changes before the page listens shows', async (t) => {
  const { name } = machines.find((it) => it.kind === 'small-vm' && !it.trouble);
  const report = (...how) => bed.report(aggregator, ['--nodes', `${NODES}`, '--only', name, ...how]);
  await visit(browser, t, {}, async (page) => {
    let listens;
    const isAsked = new Promise((resolve) => { listens = resolve; });
    await page.route('**/events', (route) => listens(route));
    await page.goto(`${aggregator.url}/?q=${name}`);
    const row = page.locator(`tr[data-node="${name}"]`);
    const before_ = await row.innerText();
    const route = await isAsked;
    await report('--trouble', 'changed-hardware');
    await route.continue();
    // The first tick comes after 15 s.
    await until('the change', async () => (await row.innerText()) !== before_, 10_000);
  });
  await report('--sound');
});

test('the header is kept fresh, too', async (t) => {
  await visit(browser, t, {}, async (page) => {
    await page.goto(aggregator.url);
    const here = page.locator('header nav .here');
    assert.equal(await here.innerText(), CLUSTER_ID);
    await page.route('**/?sort=*', async (route) => {
      const answer = await route.fetch();
      const body = (await answer.text()).replace(`aria-current="page">${CLUSTER_ID}`, 'aria-current="page">renamed');
      await route.fulfill({ response: answer, body });
    });
    await page.locator('#nodes th a[href*="sort=cpus"]').click();
    await until('the new name', async () => (await here.innerText()) === 'renamed');
  });
});

test('what is shown is told, and the focus has a place when its link is gone', async (t) => {
  await visit(browser, t, {}, async (page) => {
    const told = (pattern) =>
      until(`${pattern} to be told`, async () => pattern.test(await page.locator('#told').innerText()));
    const focused = () => page.evaluate(() => document.activeElement?.id);
    await page.goto(aggregator.url);
    await page.locator('#nodes th a[href*="sort=memory"]').press('Enter');
    await told(/^Nodes 1–100 of 202, by Memory, descending$/);
    for (const range of ['101–200', '201–202']) {
      await page.locator('a[rel=next]').press('Enter');
      await told(new RegExp(`^Nodes ${range} of 202, `));
    }
    assert.equal(await page.locator('a[rel=next]').count(), 0, 'there is no page after the last');
    assert.equal(await focused(), 'nodes');
    await page.locator('[name=q]').fill('no-such-node');
    await told(/^Nodes 0 of 0$/);
    await page.locator('form a', { hasText: 'Show all' }).press('Enter');
    await told(/^Nodes 1–100 of 202/);
    assert.equal(await focused(), 'q');
  });
});

test('on a phone, too, what is not known is said to be unknown', async (t) => {
  const { name } = machines.find((it) => it.trouble === 'incomplete');
  await visit(browser, t, LOOKS['light-390'], async (page) => {
    await page.goto(`${aggregator.url}/?q=${name}`);
    const cells = page.locator(`tr[data-node="${name}"] td.unknown`);
    assert.ok((await cells.count()) > 0);
    for (const cell of await cells.all()) {
      assert.ok(await cell.isVisible(), await cell.innerHTML());
      assert.match(await cell.innerText(), /unknown/);
      assert.match((await cell.getAttribute('data-label')) ?? '', /^[A-Za-z]+$/);
    }
  });
});

test('going back keeps filter, sorting and place', async (t) => {
  await visit(browser, t, {}, async (page) => {
    await page.goto(`${aggregator.url}/?show=gpus&sort=memory`);
    const name = (await rows(page))[60];
    const row = page.locator(`tr[data-node="${name}"]`);
    await row.scrollIntoViewIfNeeded();
    const place = await page.evaluate(() => window.scrollY);
    assert.ok(place > 500, `it was scrolled: ${place}`);
    await row.locator('a').first().click();
    await page.waitForURL(`**/nodes/${name}`);
    await page.goBack();
    await page.waitForURL('**/?show=gpus&sort=memory');
    await row.waitFor();
    await until('the place', async () => Math.abs((await page.evaluate(() => window.scrollY)) - place) < 50);
  });
});

test('typing filters, and history holds what was looked at', async (t) => {
  await visit(browser, t, {}, async (page) => {
    await page.goto(aggregator.url);
    await page.evaluate(() => { window.sameDocument = true; });
    const field = page.locator('[name=q]');
    await field.pressSequentially('render-00');
    await until('the nodes', async () => (await rows(page)).every((name) => name.includes('render-00')));
    assert.equal(await field.inputValue(), 'render-00');
    assert.ok(await field.evaluate((it) => it === document.activeElement), 'the focus stays');
    assert.equal(await page.evaluate(() => window.sameDocument), true, 'nothing was loaded anew');
    assert.match(page.url(), /q=render-00/);
    await page.reload();
    assert.equal(await field.inputValue(), 'render-00');
    assert.ok((await rows(page)).every((name) => name.includes('render-00')));
  });
});

test('what is chosen before typing filters is not undone by it', async (t) => {
  await visit(browser, t, {}, async (page) => {
    await page.goto(aggregator.url);
    // In one step of the page's, so that the pause after typing is not over before.
    await page.evaluate(() => {
      const field = document.querySelector('[name=q]');
      field.value = 'render-00';
      field.dispatchEvent(new Event('input', { bubbles: true }));
      document.querySelector('#nodes th a[href*="sort=cpus"]').click();
    });
    const sorted = page.locator('#nodes th[aria-sort]');
    await until('the order', async () => /cpus/i.test(await sorted.innerText()));
    await page.waitForTimeout(1000);
    assert.match(page.url(), /[?]sort=cpus$/);
  });
});

test('a keyboard is enough', async (t) => {
  await visit(browser, t, {}, async (page) => {
    await page.goto(aggregator.url);
    const focused = () => page.evaluateHandle(() => document.activeElement);
    await page.keyboard.press('Tab');
    const skip = await focused();
    assert.match(await skip.evaluate((it) => it.getAttribute('href') ?? ''), /^#/, 'the skip link comes first');
    const box = await skip.asElement().boundingBox();
    assert.ok(box && box.width > 20 && box.height > 10 && box.x >= 0 && box.y >= 0, 'and shows when it has the focus');
    await page.keyboard.press('Enter');
    await until('the skip link', () =>
      page.evaluate(() => {
        const main = document.querySelector('main');
        return location.hash !== '' && (document.activeElement === main || main.contains(document.activeElement) ||
          main.contains(document.getElementById(location.hash.slice(1))) || location.hash.slice(1) === main.id);
      }));

    await page.goto(aggregator.url);
    const stops = [];
    let previous = null;
    for (let stop = 0; stop < 40; stop += 1) {
      await page.keyboard.press('Tab');
      const here = await focused();
      const found = await here.evaluate((it, before) => {
        const { outlineStyle, outlineWidth, boxShadow } = getComputedStyle(it);
        return {
          what: `${it.tagName} ${it.getAttribute('href') ?? it.name ?? ''} ${it.innerText ?? ''}`.trim(),
          isVisible: (outlineStyle !== 'none' && parseFloat(outlineWidth) > 0) || boxShadow !== 'none',
          isAfter: before === null || Boolean(before.compareDocumentPosition(it) & Node.DOCUMENT_POSITION_FOLLOWING),
          isBody: it === document.body,
        };
      }, previous);
      assert.ok(!found.isBody, `the focus is lost after ${stops.at(-1)}`);
      assert.ok(found.isVisible, `the focus is not visible on ${found.what}`);
      assert.ok(found.isAfter, `${found.what} comes before ${stops.at(-1)} in the document`);
      stops.push(found.what);
      previous = here;
    }

    await page.evaluate(() => { window.sameDocument = true; });
    const link = page.locator('#nodes th a[href*="sort=cpus"]');
    await link.focus();
    await page.keyboard.press('Enter');
    await page.waitForURL('**/?sort=cpus*');
    await until('the order', () => page.locator('#nodes th[aria-sort=descending] a').count());
    const stays = await page.evaluate(() => document.activeElement?.getAttribute('href') ?? '');
    assert.match(stays, /sort=cpus/, 'the focus stays on the column');
    assert.equal(await page.evaluate(() => window.sameDocument), true, 'nothing was loaded anew');
  });
});

test('nothing is wider than the window, and all looks as it should', async (t) => {
  for (const [look, options] of Object.entries(LOOKS)) {
    await visit(browser, t, options, async (page) => {
      for (const [name, path] of [
        [`overview-${NODES}`, '/'],
        ['node-lost-gpu', `/nodes/${machines.find((it) => it.trouble === 'lost-gpu').name}`],
        ['target-refused', '/targets/lab'],
        ['target-waits', '/targets/partner'],
      ]) {
        await page.goto(`${aggregator.url}${path}`);
        await capture(page, `${name}-${look}`);
        assert.ok((await overflow(page)) <= 0, `${path} is wider than its window, ${look}`);
      }
      await page.goto(aggregator.url);
      await capture(page, `overview-${NODES}-whole-${look}`, { fullPage: true });
    });
  }
});

test('nothing is wider than the window between a desk and a phone', async (t) => {
  await visit(browser, t, {}, async (page) => {
    await page.goto(aggregator.url);
    for (const width of [1200, 1161, 1160, 1024, 961, 960, 768, 320]) {
      await page.setViewportSize({ width, height: 800 });
      assert.ok((await overflow(page)) <= 0, `it is wider than ${width} pixels by ${await overflow(page)}`);
    }
  });
});

test("README's picture", { skip: process.env.UPDATE_README ? false : 'written with UPDATE_README=1' }, async (t) => {
  const path = fileURLToPath(new URL('../../docs/images/page.png', import.meta.url));
  await visit(browser, t, { colorScheme: 'light', viewport: { width: 1280, height: 1250 } }, async (page) => {
    await page.goto(aggregator.url);
    mkdirSync(dirname(path), { recursive: true });
    await page.screenshot({ path });
    const { size } = statSync(path);
    assert.ok(size < 250_000, `${path} has ${size} bytes`);
  });
});

test('axe finds nothing serious', async (t) => {
  const known = machines.find((it) => it.trouble === 'lost-gpu').name;
  const found = [];
  for (const [look, options] of Object.entries(LOOKS)) {
    const check = async (page, what) => {
      await page.evaluate(AXE);
      const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ['violations'], preload: false }));
      for (const { id, impact, help, nodes } of violations) {
        found.push({ what, look, id, impact, help, where: nodes.slice(0, 3).map((it) => it.html), times: nodes.length });
      }
    };
    await visit(browser, t, options, async (page) => {
      for (const path of ['/', `/nodes/${known}`, '/targets/lab']) {
        await page.goto(`${aggregator.url}${path}`);
        await check(page, path);
      }
    });
    await visit(browser, t, { ...options, httpCredentials: WRONG, expected: [/status of 401/] }, async (page) => {
      await page.goto(aggregator.url.replace('127.0.0.1', 'rollcall.test'));
      await capture(page, `refused-${look}`);
      await check(page, 'the 401 page');
    });
  }
  for (const fault of found) t.diagnostic(`axe: ${JSON.stringify(fault)}`);
  const serious = found.filter((it) => ['serious', 'critical'].includes(it.impact));
  assert.deepEqual(serious, []);
});

test('a name that is not of this machine asks for the token', async (t) => {
  const url = aggregator.url.replace('127.0.0.1', 'rollcall.test');
  // A browser that nobody sits at does not show what comes without a password.
  const [asked] = await once(get(aggregator.url, { headers: { host: new URL(url).host } }), 'response');
  asked.resume();
  assert.equal(asked.statusCode, 401);
  assert.match(asked.headers['www-authenticate'], /^Basic realm="rollcall"/);
  assert.match(asked.headers['content-type'], /^text\/html/);
  await visit(browser, t, { httpCredentials: WRONG, expected: [/status of 401/] }, async (page) => {
    assert.equal((await page.goto(url)).status(), 401, 'a wrong password');
    assert.match(await page.locator('main').innerText(), /token/);
    assert.equal((await page.content()).includes(machines[0].name), false, 'it shows no node');
  });
  const httpCredentials = { username: 'operator', password: OPERATOR_TOKEN };
  // The browser tells of the 401 that it answered with the password.
  await visit(browser, t, { httpCredentials, expected: [/status of 401/] }, async (page) => {
    const events = page.waitForResponse((it) => new URL(it.url()).pathname === '/events' && it.status() === 200);
    const [answer] = await Promise.all([page.goto(url), events]);
    assert.equal(answer.status(), 200);
    assert.equal((await rows(page)).length, PAGE);
    const name = machines.find((it) => it.kind === 'small-vm' && !it.trouble).name;
    await page.goto(`${url}/?q=${name}`);
    await page.evaluate(() => { window.sameDocument = true; });
    const before = await page.locator(`tr[data-node="${name}"]`).innerText();
    await bed.report(aggregator, ['--nodes', `${NODES}`, '--only', name, '--trouble', 'changed-hardware']);
    await until('the change', async () => (await page.locator(`tr[data-node="${name}"]`).innerText()) !== before);
    assert.equal(await page.evaluate(() => window.sameDocument), true, 'nothing was loaded anew');
    await bed.report(aggregator, ['--nodes', `${NODES}`, '--only', name, '--sound']);
  });
});

test("another site's form cannot act with the password that the browser remembers", async (t) => {
  const named = aggregator.url.replace('127.0.0.1', 'rollcall.test');
  const forms = ['submit', 'offboard', 'approve'].flatMap((act) =>
    [named, aggregator.url].map((url) => `${url}/v1/targets/partner/${act}`),
  );
  const elsewhere = createServer((request, response) => {
    const at = Number(new URL(request.url, 'http://elsewhere').searchParams.get('form'));
    response.writeHead(200, { 'content-type': 'text/html' });
    // As JSON as a form can be.
    response.end(
      `<form method="post" enctype="text/plain" action="${forms[at]}"><input name='{"a":"' value='"}'><button>win</button></form>`,
    );
  });
  elsewhere.listen(0, '127.0.0.1');
  await once(elsewhere, 'listening');
  t.after(() => elsewhere.close());
  const before = await aggregator.phase('partner', 'ready');
  const context = await browser.newContext();
  t.after(() => context.close());
  const page = await context.newPage();
  for (const [at, action] of forms.entries()) {
    // Told anew each time: a browser forgets a password that was refused.
    assert.equal((await page.goto(named.replace('://', `://operator:${OPERATOR_TOKEN}@`))).status(), 200);
    await page.goto(`http://elsewhere.test:${elsewhere.address().port}/?form=${at}`);
    const [answer] = await Promise.all([page.waitForResponse(action), page.locator('button').click()]);
    const sent = (await answer.request().allHeaders()).authorization ?? '';
    assert.equal(answer.request().method(), 'POST');
    assert.equal(sent.startsWith('Basic '), action.startsWith(named), `what was sent to ${action}: ${sent}`);
    assert.ok([401, 403].includes(answer.status()), `${action}: ${answer.status()}`);
    assert.doesNotMatch(answer.headers()['www-authenticate'] ?? '', /basic/i, action);
  }
  const after_ = (await aggregator.api('/v1/status')).targets.find((it) => it.name === 'partner');
  assert.deepEqual(after_.will, before.will, 'nothing was ordered');
  assert.equal(after_.phase, 'ready');
});
