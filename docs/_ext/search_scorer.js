// How search results are ordered: Sphinx's own scores, but a page whose title holds the query comes
// first, and what is not a guide comes later.
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
