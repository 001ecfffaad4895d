// A bed for tests of the page: a folder with all that the programs need, and the programs in it. Whatever
// becomes of the tests, the programs end with them.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync, createWriteStream } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';

/** The join token of every bed. */
const TOKEN = 'the-join-token-of-the-test-bed';

/** The operator's token of every bed. */
export const OPERATOR_TOKEN = 'the-operators-token-of-the-test-bed';

/** The cluster that every bed registers. */
export const CLUSTER_ID = 'test-cluster';

/** How long to wait for what ought to be at once, on a slow and busy machine; in milliseconds. */
export const PATIENCE = 30_000;

/** A value that the environment must give: tests/page.sh does. */
function setting(name) {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set: run tests/page.sh`);
  return value;
}

/** Where screenshots, traces and the programs' output go. */
export const OUTPUT = setting('ROLLCALL_PAGE_OUTPUT');

/** Looks until there is what is waited for, and returns it. */
export async function until(what, look, patience = PATIENCE) {
  const end = Date.now() + patience;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > end) throw new Error(`${what}: not within ${patience} ms: ${JSON.stringify(found)}`);
    await sleep(50);
  }
}

/** A running program. */
class Daemon {
  constructor(name, log, args) {
    this.name = name;
    this.lines = [];
    const program = join(setting('ROLLCALL_PROGRAMS'), name);
    // The kernel ends it with this process, however that ends.
    this.child = spawn('setpriv', ['--pdeathsig', 'KILL', '--', program, ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.ended = once(this.child, 'close');
    const file = createWriteStream(log, { flags: 'a' });
    for (const stream of [this.child.stdout, this.child.stderr]) {
      createInterface({ input: stream }).on('line', (line) => {
        this.lines.push(line);
        file.write(`${line}\n`);
      });
    }
  }

  /** Waits for a line, and returns what the pattern found in it. */
  async line(pattern, what) {
    return until(`${this.name}: ${what}`, () => {
      const found = this.lines.map((line) => pattern.exec(line)).find(Boolean);
      if (!found && this.child.exitCode !== null) {
        throw new Error(`${this.name} ended without ${what}:\n${this.lines.slice(-40).join('\n')}`);
      }
      return found;
    });
  }

  /** Asks it to stop and waits until it has. */
  async stop() {
    this.child.kill('SIGTERM');
    await this.ended;
  }
}

/** A bed; made by `Bed.make`, taken away by `remove`. */
export class Bed {
  /** A bed whose cluster file ends with `rest`. */
  constructor(name, rest) {
    this.name = name;
    this.folder = mkdtempSync(join(tmpdir(), `rollcall-page-${name}-`));
    this.daemons = [];
    this.write('token', TOKEN);
    this.write('operator-token', OPERATOR_TOKEN);
    this.write('cluster.yaml', `cluster:\n  id: ${CLUSTER_ID}\n  regionId: lab\n${rest}`);
  }

  path(name) {
    return join(this.folder, name);
  }

  write(name, text) {
    writeFileSync(this.path(name), text);
    chmodSync(this.path(name), 0o600);
  }

  start(name, args) {
    mkdirSync(OUTPUT, { recursive: true });
    const daemon = new Daemon(name, join(OUTPUT, `${this.name}-${name}.log`), args);
    this.daemons.push(daemon);
    return daemon;
  }

  /** Starts an aggregator on free ports, or on those that it had, and waits until it listens. */
  async aggregator(args = [], { intake = '127.0.0.1:0', admin = '127.0.0.1:0' } = {}) {
    const daemon = this.start('rollcall-aggregator', [
      'serve',
      ...['--listen', intake, '--admin-listen', admin],
      ...['--store', `sqlite:${this.path('rollcall.db')}`],
      ...['--cluster', this.path('cluster.yaml')],
      ...['--token-file', this.path('token')],
      ...['--operator-token-file', this.path('operator-token')],
      ...args,
    ]);
    const address = async (what) =>
      (await daemon.line(new RegExp(`${what} listening.* address=(\\S+)`), `its ${what}`))[1];
    return new Aggregator(daemon, await address('intake'), await address('admin'));
  }

  /** Starts a stand-in of AIOS, and returns the target of a cluster file that it is. */
  async aios(target, args = [], more = '') {
    const daemon = this.start('aios-standin', args);
    const [line] = await daemon.line(/^\{.*\}$/, 'its URLs');
    const { parserUrl, gatewayUrl } = JSON.parse(line);
    return (
      `  - name: ${target}\n    type: aios\n    parserUrl: ${parserUrl}\n    gatewayUrl: ${gatewayUrl}\n` +
      `    lookEvery: 1s\n${more}`
    );
  }

  /** Runs `fleet` to its end, and returns the lines of JSON that it printed. */
  async fleet(args) {
    const daemon = this.start('fleet', args);
    await daemon.ended;
    if (daemon.child.exitCode !== 0) throw new Error(`fleet ${args}: ${daemon.lines.join('\n')}`);
    return daemon.lines.map((line) => JSON.parse(line));
  }

  /** Reports machines of a fleet to an aggregator, once. */
  async report(aggregator, args) {
    return this.fleet(['--intake', aggregator.intake, '--token-file', this.path('token'), ...args]);
  }

  /** Lets machines of a fleet report to an aggregator again and again; the first round is over. */
  async keepReporting(aggregator, args) {
    const to = ['--intake', aggregator.intake, '--token-file', this.path('token')];
    const daemon = this.start('fleet', [...to, ...args]);
    await daemon.line(/"reports"/, 'a round of reports');
    return daemon;
  }

  /** Ends all programs and removes the folder. */
  async remove() {
    await Promise.all(this.daemons.map((daemon) => daemon.stop()));
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** A running aggregator. */
class Aggregator {
  constructor(daemon, intake, admin) {
    this.daemon = daemon;
    this.intake = intake;
    this.admin = admin;
  }

  /** The page's URL, without a slash at its end. */
  get url() {
    return `http://${this.admin}`;
  }

  /** What one of the API's paths answers. */
  async api(path) {
    const answer = await fetch(`${this.url}${path}`);
    if (!answer.ok) throw new Error(`GET ${path}: ${answer.status} ${await answer.text()}`);
    return answer.json();
  }

  /** Posts a report as it is; returns status and body. */
  async post(report) {
    const answer = await fetch(`http://${this.intake}/v1/reports`, {
      method: 'POST',
      headers: { authorization: `Bearer ${TOKEN}`, 'content-type': 'application/json' },
      body: JSON.stringify(report),
    });
    return { status: answer.status, body: await answer.text() };
  }

  /** Waits until a target is in a phase. */
  async phase(target, phase, patience = PATIENCE) {
    return until(`${target} to be ${phase}`, async () => {
      const { targets } = await this.api('/v1/status');
      return targets.find((it) => it.name === target && it.phase === phase);
    }, patience);
  }
}
