package report

import (
	"hookbed/analysis/claims"
	"hookbed/analysis/table"
)

// claimsID is the ID of the section of claims.
const claimsID = "claims"

// claimCards are the claims as the page shows them: the verdict first.
type claimCards struct {
	ClaimsTitle string
	ClaimsNote  string
	Tally       []tally
	Cards       []claimCard // that have a verdict, contradicted ones first
	Open        []claimCard // that are undecided
}

// tally is how many claims have a verdict.
type tally struct {
	Word string
	N    int
}

type claimCard struct {
	ID, Verdict, Sentence string
	Ratio                 string // that decided, "" for none
	Evidence              []pageEntry
}

// cardsOf are the claims of a part.
func cardsOf(c content) claimCards {
	section := claimSection(c.Claims)
	out := claimCards{ClaimsTitle: section.Title, ClaimsNote: section.Note}
	for _, word := range []string{claims.Contradicted, claims.Reproduced, claims.Undecided} {
		list, n := &out.Cards, 0
		if word == claims.Undecided {
			list = &out.Open
		}
		for _, v := range c.Claims {
			if v.Verdict == word {
				*list, n = append(*list, cardOf(v)), n+1
			}
		}
		if n > 0 {
			out.Tally = append(out.Tally, tally{word, n})
		}
	}
	return out
}

func cardOf(v claims.Verdict) claimCard {
	out := claimCard{ID: v.ID, Verdict: v.Verdict, Sentence: v.Sentence,
		Evidence: []pageEntry{{"source", v.Source + ", " + v.Scenario}, {"margin", table.Percent(v.Margin)}}}
	rests := restsOn(v)
	if c := v.Deciding(); c != nil {
		out.Ratio = table.RatioWithInterval(&c.Ratio, 1-2*claims.Alpha)
		out.Evidence = append(out.Evidence, pageEntry{"decided by", decidedBy(c)})
	}
	out.Evidence = append(out.Evidence, pageEntry{"rests on", rests})
	return out
}
