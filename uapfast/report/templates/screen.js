"use strict";
// Sorts, filters and pages the table. Data come from hostile files: text nodes only, never markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const C = data.columns, S = data.strings, PAGE = 100, count = C.name.length;
  const order = ["piracy", "inconclusive", "independent", "invalid", "unavailable"];
  const marks = { piracy: "✖", inconclusive: "?", independent: "○", invalid: "!", unavailable: "–" };
  const made = new Map([["modification", "weights modified"], ["extraction", "trained on answers"],
    ["unclear", "how it was made: unclear"]]);
  const $ = (id) => document.getElementById(id);
  const said = (name, i) => (C[name][i] < 0 ? null : S[C[name][i]]);
  const many = new Set(C.reference).size > 1;

  function el(tag, text, cls) {
    const node = document.createElement(tag);
    if (text !== undefined && text !== null) node.textContent = text;
    if (cls) node.className = cls;
    return node;
  }
  const short = (x) => String(Number(x)).replace("e+", "e");
  function p(x) {
    if (x === null) return "–";
    if (x >= 1e-3) return short(x.toPrecision(2));
    return x < 1e-15 ? "< 1e-15" : x.toExponential(0);
  }
  const fixed = (digits) => (x) => (x === null ? "–" : x.toFixed(digits));
  const plain = (x) => (x === null ? "–" : x.toLocaleString("en"));
  function chip(i) {
    const decision = said("decision", i), node = el("span", null, "chip " + decision), mark = el("span", marks[decision]);
    mark.setAttribute("aria-hidden", "true");
    node.append(mark, " " + decision);
    return node;
  }

  function verdict(i) {
    const cell = el("td"), how = made.get(said("relation", i));
    cell.append(chip(i));
    if (how) cell.append(el("small", how));
    return cell;
  }

  // key of the heading -> [value to sort by, cell]
  const shows = {
    reference: [(i) => said("reference", i), (i) => el("td", said("reference", i))],
    decision: [(i) => order.indexOf(said("decision", i)), verdict],
    arch: [(i) => said("arch", i), (i) => el("td", said("arch", i), "path")],
  };
  for (const [name, show] of [["p_value", p], ["q_value", p], ["p_holm", p], ["z", fixed(1)], ["similarity", fixed(3)],
    ["rank", plain], ["queries_used", plain]]) {
    shows[name] = [(i) => C[name][i], (i) => el("td", show(C[name][i]), "n")];
  }
  shows.name = [(i) => C.name[i], null];

  function line(list, name, value, note) {
    if (value === null || value === undefined || value === "") return;
    const dd = el("dd", value);
    if (note) dd.append(" ", el("span", note, "soft"));
    list.append(el("dt", name), dd);
  }
  const side = (i, name) => (C["p_" + name][i] === null ? null
    : p(C["p_" + name][i]) + ", by rank alone " + p(C[`p_${name}_exact`][i]) + " (cannot fall below "
      + p(C[`p_${name}_floor`][i]) + ")");
  function detail(i) {
    const box = el("div", null, "detail"), reasons = C.reasons[i], list = el("dl");
    if (reasons.length) {
      const ul = el("ul");
      for (const r of reasons) ul.append(el("li", S[r]));
      box.append(ul);
    }
    if (C.page[i]) {
      const own = el("p"), link = el("a", "The page of this suspect");
      link.href = C.page[i];
      own.append(link);
      box.append(own);
    }
    const error = said("error_class", i);
    line(list, "error", error && error + ": " + (C.error_message[i] || ""));
    line(list, "against twins", side(i, "candidate"));
    line(list, "against innocents", side(i, "suspect"));
    line(list, "against both together", side(i, "joint"));
    line(list, "held against", said("pool", i));
    line(list, "among these suspects", C.p_population[i] === null ? null : p(C.p_population[i]),
      "empirical null of the population; does not decide");
    line(list, "the paper's view-level p", C.p_view[i] === null ? null : p(C.p_view[i]), "not a false-accusation rate; never decides");
    line(list, "place of the victim", C.rank[i] === null ? null : plain(C.rank[i]), "among the candidates; 1 is the closest");
    line(list, "asked", `${plain(C.views_used[i])} views, ${plain(C.queries_used[i])} of ${plain(C.queries_full[i])} queries`
      + (said("output", i) ? ", answers with " + said("output", i) : ""));
    line(list, "same tensors as", C.same_as[i]);
    line(list, "file", C.path[i]);
    line(list, "architecture", said("arch", i));
    line(list, "SHA-256", C.sha256[i]);
    line(list, "time", C.seconds[i].toFixed(2) + " s");
    box.append(list);
    return box;
  }

  let view = [], page = 0, key = null, down = false;
  const body = $("rows");
  function cells(i) {
    const tr = el("tr"), th = el("th"), button = el("button", C.name[i], "open");
    th.scope = "row";
    button.type = "button";
    button.setAttribute("aria-expanded", "false");
    button.addEventListener("click", () => {
      const open = button.getAttribute("aria-expanded") === "true";
      button.setAttribute("aria-expanded", String(!open));
      if (open) { tr.nextSibling.remove(); return; }
      const more = el("tr"), td = el("td");
      td.colSpan = tr.children.length;
      td.append(detail(i));
      more.append(td);
      tr.after(more);
    });
    th.append(button);
    if (C.same_as[i] !== null) th.append(el("small", "same tensors as " + C.same_as[i]));
    const known = said("known_copy", i);
    if (known !== null) th.append(el("small", "known copy (" + known + "): no suspect, not counted"));
    tr.append(th);
    for (const name of keys) if (name !== "name") tr.append(shows[name][1](i));
    return tr;
  }
  const headings = [...document.querySelectorAll("th[data-key]")];
  const keys = headings.map((h) => h.dataset.key);

  function draw() {
    const pages = Math.max(1, Math.ceil(view.length / PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    const first = page * PAGE, part = view.slice(first, first + PAGE);
    body.replaceChildren(...part.map(cells));
    $("where").textContent = view.length
      ? `${plain(first + 1)} to ${plain(first + part.length)} of ${plain(view.length)}` + (view.length < count ? ` (${plain(count)} in all)` : "")
      : "no row fits the filter";
    $("back").disabled = page === 0;
    $("next").disabled = page === pages - 1;
  }
  function update() {
    const words = $("find").value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = new Set([...document.querySelectorAll("input[data-decision]")].filter((b) => b.checked).map((b) => b.dataset.decision));
    const reference = many ? $("reference").value : "";
    view = [];
    for (let i = 0; i < count; i++) {
      if (!wanted.has(said("decision", i)) || (reference && said("reference", i) !== reference)) continue;
      if (words.length) {
        const text = [C.name[i], C.path[i], said("arch", i), said("error_class", i), C.error_message[i], C.sha256[i]].join("\n").toLowerCase();
        if (!words.every((w) => text.includes(w))) continue;
      }
      view.push(i);
    }
    if (key) {
      const value = shows[key][0], sign = down ? -1 : 1;
      view.sort((a, b) => {
        const x = value(a), y = value(b);
        if (x === null || y === null) return (x === null) - (y === null) || a - b;  // unknown stays last
        return (x < y ? -sign : x > y ? sign : 0) || a - b;
      });
    }
    page = 0;
    draw();
  }
  for (const h of headings) {
    const button = el("button", h.textContent, "sort");
    button.type = "button";
    h.replaceChildren(button);
    button.addEventListener("click", () => {
      const name = h.dataset.key;
      if (key !== name) { key = name; down = h.dataset.first === "down"; }
      else if (down === (h.dataset.first === "down")) down = !down;
      else key = null;  // third click: the ranking again
      for (const other of headings) other.removeAttribute("aria-sort");
      if (key) h.setAttribute("aria-sort", down ? "descending" : "ascending");
      update();
    });
  }
  if (many) {
    for (const name of [...new Set(C.reference)].map((r) => S[r])) $("reference").append(el("option", name));
    for (const option of $("reference").options) if (option.textContent !== "all references") option.value = option.textContent;
    $("reference").addEventListener("change", update);
  }
  $("find").addEventListener("input", update);
  for (const box of document.querySelectorAll("input[data-decision]")) box.addEventListener("change", update);
  $("back").addEventListener("click", () => { page--; draw(); });
  $("next").addEventListener("click", () => { page++; draw(); });
  document.documentElement.classList.add("js");
  update();
})();
