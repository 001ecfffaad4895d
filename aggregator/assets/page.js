// Keeps the page as the cluster is, without a reload. The server makes every page; this fetches the
// same address again and changes what has changed. Without it the page is a page like any other.

const live = document.getElementById("live");
const page = document.querySelector("main").dataset.page;
// How often to look where the server tells no news, how long it may be silent (it ticks every 15 s) before the
// connection counts as dead, how long an answer may take, and how long typing may pause.
const FALLBACK_MS = 15_000;
const SILENCE_MS = 40_000;
const ANSWER_MS = 20_000;
const TYPING_MS = 200;

document.documentElement.classList.add("scripted");

// ---- What is shown ----

/** What tells an element from its siblings, so that a row stays that node's row wherever it goes. */
function keyOf(node) {
  if (node.nodeType !== Node.ELEMENT_NODE) return null;
  const { id, dataset } = node;
  const name = dataset.node ?? dataset.missing ?? dataset.model ?? dataset.field;
  return id ? `#${id}` : name === undefined ? null : `${node.localName} ${name}`;
}

function isSameKind(one, other) {
  return one.nodeType === other.nodeType && one.nodeName === other.nodeName && keyOf(one) === keyOf(other);
}

/** Makes an element like another, and leaves alone what is like it already: focus, selection, scroll. */
function become(element, wanted) {
  if (element.nodeType !== Node.ELEMENT_NODE) {
    if (element.nodeValue !== wanted.nodeValue) element.nodeValue = wanted.nodeValue;
    return;
  }
  // What a person has opened stays open, and what is being typed or chosen stays.
  const isOwn = (name) => name === "open" && element.localName === "details";
  for (const { name, value } of wanted.attributes) {
    if (!isOwn(name) && element.getAttribute(name) !== value) element.setAttribute(name, value);
  }
  for (const { name } of [...element.attributes]) {
    if (!isOwn(name) && !wanted.hasAttribute(name)) element.removeAttribute(name);
  }
  if (element === document.activeElement && element.matches("input, select")) return;
  if (element.localName === "input" && element.value !== wanted.value) element.value = wanted.value;
  becomeChildren(element, wanted);
  if (element.localName === "select" && element.value !== wanted.value) element.value = wanted.value;
}

function becomeChildren(element, wanted) {
  const keyed = new Map();
  for (const child of element.childNodes) {
    const key = keyOf(child);
    if (key !== null) keyed.set(key, child);
  }
  let here = element.firstChild;
  for (const child of [...wanted.childNodes]) {
    const key = keyOf(child);
    const known = key === null ? here : keyed.get(key);
    if (known && isSameKind(known, child)) {
      if (known === here) here = here.nextSibling;
      else element.insertBefore(known, here);
      become(known, child);
    } else {
      element.insertBefore(document.importNode(child, true), here);
    }
  }
  while (here) {
    const next = here.nextSibling;
    here.remove();
    here = next;
  }
}

// ---- Fetching it ----

let fetching = null;
let isDueAgain = false;

/** Shows what is at an address now. Of several fetches only the newest counts. */
async function show(address) {
  fetching?.abort();
  const mine = new AbortController();
  fetching = mine;
  isDueAgain = false;
  const patience = setTimeout(() => mine.abort(new DOMException("no answer", "TimeoutError")), ANSWER_MS);
  try {
    const answer = await fetch(address, { signal: mine.signal, cache: "no-store" });
    // Whoever is let in no more is asked by the browser; a node that is gone is told of by the page.
    if (answer.status === 401 || answer.redirected) return leaveFor(address);
    const text = await answer.text();
    if (fetching !== mine) return undefined;
    const fresh = new DOMParser().parseFromString(text, "text/html");
    const main = fresh.querySelector("main[data-page]");
    if (!main || answer.status >= 500) return say("lost");
    // Another version of the program has another script and style.
    if (scriptOf(fresh) !== scriptOf(document)) return leaveFor(address);
    document.title = fresh.title;
    const held = document.activeElement;
    const isInForm = held?.closest("form[role=search]");
    for (const part of ["header nav", "#as-of", "main"]) {
      const wanted = fresh.querySelector(part);
      if (wanted) become(document.querySelector(part), wanted);
    }
    keepFocus(held, isInForm);
    if (state === "lost" || state === "trying") say(connection());
    return true;
  } catch (error) {
    return error.name === "AbortError" ? undefined : say("lost");
  } finally {
    clearTimeout(patience);
    if (fetching === mine) {
      fetching = null;
      if (isDueAgain) refresh();
    }
  }
}

/** The focus stays where it was, also in a row that went elsewhere; what is gone leaves it to what stood around it. */
function keepFocus(held, isInForm) {
  if (!held || held === document.body || held === document.activeElement) return;
  const nodes = isInForm ? null : document.getElementById("nodes");
  const next = held.isConnected ? held : (nodes ?? document.getElementById("q") ?? document.querySelector("main"));
  next.focus({ preventScroll: true });
}

/** Loads an address anew; to assign the present one would only go to its fragment. */
function leaveFor(address) {
  if (address === location.href) location.reload();
  else location.assign(address);
}

function scriptOf(of) {
  return of.querySelector("script[src]")?.getAttribute("src");
}

/** Shows the present address anew; once more after what runs, which constant change would else never let end. */
function refresh() {
  if (!fetching) return show(location.href);
  isDueAgain = true;
  return undefined;
}

// ---- Sorting, filtering, paging: the page's own links and form, without a reload ----

/** The timer by which typing filters after a pause. What is chosen meanwhile goes before it. */
let typing = 0;

/** Goes to another view of the same page, and tells those who do not see it. */
async function go(address, { replace = false } = {}) {
  clearTimeout(typing);
  if (replace) history.replaceState(null, "", address);
  else if (address !== location.href) history.pushState(null, "", address);
  if (await show(address)) tell();
}

/** Says which nodes are shown, in which order. What changes by itself is not told: it would never end. */
function tell() {
  const count = document.querySelector("[data-pages]")?.textContent;
  if (!count) return;
  const sorted = document.querySelector("#nodes th[aria-sort]");
  const order = sorted ? `, by ${sorted.textContent}, ${sorted.getAttribute("aria-sort")}` : "";
  document.getElementById("told").textContent = `Nodes ${count}${order}`;
}

function addressOf(form) {
  const data = new URLSearchParams(new FormData(form));
  if (!data.get("q")?.trim()) data.delete("q");
  if (data.get("show") === "all") data.delete("show");
  const query = data.toString();
  return new URL(query ? `/?${query}` : "/", location.href).href;
}

if (page === "overview") {
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-swap]");
    const isPlain = event.button === 0 && !(event.ctrlKey || event.metaKey || event.shiftKey || event.altKey);
    if (!link || !isPlain) return;
    event.preventDefault();
    const isPaging = link.matches("nav.pages a");
    go(link.href).then(() => {
      if (isPaging) document.getElementById("roll").scrollIntoView();
    });
  });

  document.addEventListener("submit", (event) => {
    if (!event.target.matches("form[role=search]")) return;
    event.preventDefault();
    go(addressOf(event.target));
  });

  document.addEventListener("input", (event) => {
    const form = event.target.closest("form[role=search]");
    if (!form) return;
    clearTimeout(typing);
    const isText = event.target.name === "q";
    typing = setTimeout(() => go(addressOf(form), { replace: isText }), isText ? TYPING_MS : 0);
  });

  addEventListener("popstate", () => {
    clearTimeout(typing);
    // What the form says goes with the address, also where it has the focus.
    document.activeElement?.closest?.("form[role=search]") && document.activeElement.blur();
    show(location.href);
  });
}

// ---- The news ----

const WORDS = {
  live: "Live",
  back: "Live again",
  trying: "Connection lost, trying again",
  lost: "Connection lost: what is shown is from before",
  polling: "No live news: looked at every 15 s",
};

let news = null;
let polling = 0;
let silence = 0;
let state = null;

/** How the connection is where what is shown is fresh. */
function connection() {
  if (news?.readyState === EventSource.OPEN) return "live";
  return polling ? "polling" : "trying";
}

/** Says how the connection is; a reader hears of changes alone. */
function say(next) {
  const was = state;
  state = next === "live" && (was === "trying" || was === "lost" || was === "back") ? "back" : next;
  if (state === was) return;
  live.dataset.state = state === "back" ? "live" : state;
  live.textContent = WORDS[state];
}

function stopPolling() {
  clearInterval(polling);
  polling = 0;
}

/** Looks now and then, and tries for the news again each time. */
function poll() {
  if (polling) return;
  polling = setInterval(() => {
    refresh();
    listen();
  }, FALLBACK_MS);
}

/** The server is there: the next word from it is waited for anew. */
function heard() {
  clearTimeout(silence);
  silence = setTimeout(() => {
    // Nobody has closed it, and nothing comes: a link is down, a machine is gone, a proxy keeps it all back.
    stopListening();
    say("lost");
    refresh();
    poll();
  }, SILENCE_MS);
}

function stopListening() {
  clearTimeout(silence);
  news?.close();
  news = null;
}

function listen() {
  stopListening();
  const source = new EventSource("/events");
  news = source;
  heard();
  source.addEventListener("open", () => {
    stopPolling();
    heard();
    // What happened since the page was made, or meanwhile, was told to nobody.
    refresh();
    say("live");
  });
  for (const event of ["changed", "tick"]) {
    source.addEventListener(event, () => {
      heard();
      refresh();
    });
  }
  source.addEventListener("error", () => {
    if (source.readyState !== EventSource.CLOSED) return say("trying");
    // It was refused: there are listeners enough, or the aggregator stops.
    stopListening();
    if (state !== "lost" && state !== "trying") say("polling");
    return poll();
  });
}

function rest() {
  stopListening();
  stopPolling();
  isDueAgain = false;
}

// Nobody looks at a page that is hidden.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return rest();
  refresh();
  return listen();
});
addEventListener("pagehide", rest);
addEventListener("pageshow", (event) => {
  if (!event.persisted) return;
  refresh();
  listen();
});

if (page !== "error" && !document.hidden) listen();
