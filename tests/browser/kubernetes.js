// A stand-in of the Kubernetes API, as far as an aggregator reads it beside its agents' reports: the
// Nodes, listed and watched.

import { once } from 'node:events';
import { createServer } from 'node:http';

/** A running stand-in; `close` ends it. */
export class Kubernetes {
  /** Starts one that has Nodes of these names. */
  static async start(names) {
    const it = new Kubernetes();
    it.names = names;
    it.server = createServer((request, response) => it.answer(request, response));
    it.server.listen(0, '127.0.0.1');
    await once(it.server, 'listening');
    return it;
  }

  /** A kubeconfig for it. */
  kubeconfig() {
    const server = `http://127.0.0.1:${this.server.address().port}`;
    return JSON.stringify({
      apiVersion: 'v1',
      kind: 'Config',
      'current-context': 'lab',
      clusters: [{ name: 'lab', cluster: { server } }],
      users: [{ name: 'admin', user: { token: 'the-bearer-token-of-the-kubeconfig' } }],
      contexts: [{ name: 'lab', context: { cluster: 'lab', user: 'admin' } }],
    });
  }

  async close() {
    this.server.closeAllConnections();
    this.server.close();
    await once(this.server, 'close');
  }

  answer(request, response) {
    const { pathname, searchParams } = new URL(request.url, 'http://kubernetes');
    const send = (status, body) => {
      response.writeHead(status, { 'content-type': 'application/json' });
      response.end(JSON.stringify(body));
    };
    request.resume();
    if (request.method === 'GET' && pathname === '/version') {
      send(200, { major: '1', minor: '33', gitVersion: 'v1.33.1' });
    } else if (request.method === 'GET' && pathname === '/api/v1/nodes') {
      if (searchParams.get('watch')) {
        // Nothing changes; the watch stays open.
        response.writeHead(200, { 'content-type': 'application/json' });
        response.flushHeaders();
      } else {
        const items = this.names.map(node);
        send(200, { kind: 'NodeList', apiVersion: 'v1', metadata: { resourceVersion: '1' }, items });
      }
    } else {
      const message = `${request.method} ${pathname} is not known to the stand-in`;
      send(404, { kind: 'Status', apiVersion: 'v1', status: 'Failure', reason: 'NotFound', message, code: 404 });
    }
  }
}

function node(name, index) {
  return {
    metadata: {
      name,
      uid: `00000000-0000-4000-8000-${String(index).padStart(12, '0')}`,
      resourceVersion: '1',
      labels: { 'kubernetes.io/os': 'linux', 'kubernetes.io/hostname': name },
    },
    spec: {},
    status: { conditions: [{ type: 'Ready', status: 'True' }], nodeInfo: { operatingSystem: 'linux' } },
  };
}
