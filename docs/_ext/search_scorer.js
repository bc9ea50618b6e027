// How search results are found and ordered: Sphinx's own scores, but a page whose title holds the
// query comes first, and what is not a guide comes later.
var Scorer = {
  score: ([docname, title, anchor, description, score]) => {
    const query = (new URLSearchParams(location.search).get("q") || "").trim().toLowerCase();
    if (!anchor && !description && title.toLowerCase().includes(query)) score += 20;
    if (/^(api|architecture|changelog|contributing|decisions\/)/.test(docname)) score -= 8;
    return score;
  },
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};

// Sphinx shows only pages that have every word of a query. A question has words that no page has, or
// only the long changelog, so here the pages follow that have some of the words. A word counts the
// more, the fewer pages have it, so "how" and "in" need no list.
if (typeof Search === "object") {
  const holding = (word, index, score, partialScore) => {
    const whole = Object.hasOwn(index, word);
    const inside = word.length > 2 ? Object.keys(index).filter((each) => each.includes(word)) : [];
    return (whole ? [word] : inside).map((each) => [index[each], whole ? score : partialScore]);
  };
  // The pages with a word, each with the word's score there.
  const pagesWith = (word) => {
    const { terms, titles, titleterms } = Search._index;
    const pages = new Map();
    for (const [files, score] of [
      ...holding(word, terms, Scorer.term, Scorer.partialTerm),
      ...holding(word, titleterms, Scorer.title, Scorer.partialTitle),
    ])
      for (const file of [files].flat()) pages.set(file, Math.max(score, pages.get(file) || 0));
    // The titles that Sphinx knows are also those of sections. A page's own says what it is about.
    for (const [file, score] of pages)
      if (titles[file].toLowerCase().includes(word)) pages.set(file, 2 * score);
    return pages;
  };
  Search.performTermsSearch = (searchTerms, excludedTerms) => {
    const { docnames, filenames, titles } = Search._index;
    const excluded = new Set([...excludedTerms].flatMap((word) => [...pagesWith(word).keys()]));
    const found = new Map();
    let whole = 0;
    for (const word of searchTerms) {
      const pages = pagesWith(word);
      const weight = Math.log(1 + docnames.length / Math.max(pages.size, 1));
      whole += weight;
      for (const [file, score] of pages) {
        if (excluded.has(file)) continue;
        const page = found.get(file) || { weight: 0, score: 0 };
        page.weight += weight;
        page.score += score * weight;
        found.set(file, page);
      }
    }
    const most = Math.max(0, ...[...found.values()].map((page) => page.weight));
    if (most < whole / 3) return []; // less than a third of a question is no answer to it
    const pages = [...found].filter(([, page]) => page.weight > most / 3);
    return pages.map(([file, { score, weight }]) => [
      docnames[file], titles[file], "", null, (score * weight) / whole ** 2, filenames[file],
      SearchResultKind.text,
    ]);
  };
}
