// How search results are found and ordered: Sphinx's own scores, but a page whose title holds the
// query comes first, and what is not a guide comes later.
var Scorer = {
  score: ([docname, title, anchor, description, score]) => {
    const query = (new URLSearchParams(location.search).get("q") || "").trim().toLowerCase();
    if (!anchor && !description && title.toLowerCase().includes(query)) score += 20;
    if (/^(api|changelog|decisions\/)/.test(docname)) score -= 8;
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

// Sphinx shows only pages that have every word of a query; a question has words that no page has.
// Where no page has all of them, these are the pages that have the most. A word counts the more,
// the fewer pages have it, so "how" and "in" need no list.
if (typeof Search === "object") {
  const holding = (word, index, score, partialScore) => {
    const whole = Object.hasOwn(index, word);
    const inside = word.length > 2 ? Object.keys(index).filter((each) => each.includes(word)) : [];
    return (whole ? [word] : inside).map((each) => [index[each], whole ? score : partialScore]);
  };
  // The pages with a word, each with the word's score there.
  const pagesWith = (word) => {
    const { terms, titleterms } = Search._index;
    const pages = new Map();
    for (const [files, score] of [
      ...holding(word, terms, Scorer.term, Scorer.partialTerm),
      ...holding(word, titleterms, Scorer.title, Scorer.partialTitle),
    ])
      for (const file of [files].flat()) pages.set(file, Math.max(score, pages.get(file) || 0));
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
        const page = found.get(file) || { weight: 0, words: 0, score: 0 };
        page.weight += weight;
        page.words += 1;
        page.score += score * weight;
        found.set(file, page);
      }
    }
    let pages = [...found].filter(([, page]) => page.words === searchTerms.size);
    if (!pages.length) {
      const most = Math.max(0, ...[...found.values()].map((page) => page.weight));
      // Less than a third of a question is no answer to it.
      pages = most < whole / 3 ? [] : [...found].filter(([, page]) => page.weight > most / 2);
    }
    return pages.map(([file, { score }]) => [
      docnames[file], titles[file], "", null, score / whole, filenames[file], SearchResultKind.text,
    ]);
  };
}
