package draft

import (
	"fmt"
	"slices"
	"time"

	"hookbed/driver/plan"
)

// size is how often and how long each cell is measured.
type size struct {
	boots    int // seeds in virtual time, blocks on the wall clock
	trials   int // of each, on the wall clock
	duration time.Duration
	count    int // transactions of workloads that count them
}

// sizes are the sizes of a request, the largest first. Boots are the last to go on the wall clock: what
// differs from boot to boot no number of trials shows. In virtual time a trial is exact, and its length
// only divides what surrounds it.
func sizes(r Request) []size {
	if r.Clock == plan.ClockVirtual {
		return []size{
			{boots: 3, duration: time.Second, count: 1200}, {boots: 3, duration: time.Second, count: 600}, {boots: 2, duration: time.Second, count: 600},
			{boots: 2, duration: time.Second, count: 300}, {boots: 1, duration: time.Second, count: 300}, {boots: 1, duration: time.Second, count: 100},
		}
	}
	return []size{
		{3, 5, 10 * time.Second, 20000}, {3, 3, 10 * time.Second, 20000}, {3, 3, 5 * time.Second, 10000}, {3, 2, 5 * time.Second, 10000},
		{3, 2, 2 * time.Second, 5000}, {3, 1, 2 * time.Second, 5000}, {2, 1, 2 * time.Second, 5000}, {1, 1, 2 * time.Second, 5000}, {1, 1, time.Second, 2000},
	}
}

// chosen says what a size is, and why it was chosen.
func (s size) chosen(r Request, largest bool) string {
	why := "the largest that fits the budget of " + short(r.Budget)
	if largest {
		why = "the most that helps; the budget of " + short(r.Budget) + " has room for it"
	}
	if r.Clock == plan.ClockVirtual {
		text := fmt.Sprintf("%s and %s a trial: %s", plural(s.boots, "seed"), plural(s.count, "transaction"), why)
		if s.boots == 1 {
			text += "; numbers are exact, but one seed does not show whether it matters"
		}
		return text
	}
	text := fmt.Sprintf("%s of %s of %s: %s", plural(s.boots, "block"), plural(s.trials, "trial"), short(s.duration), why)
	if s.boots*s.trials < 2 {
		text += "; one trial a cell has no interval, so no difference can be shown: a larger budget is needed for that"
	}
	return text
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// counted are the workloads that a file measures by a number of transactions, each with the number.
func (w Writer) counted(r Request, s size) (names []string, counts []int) {
	for _, e := range w.Catalog.Workloads {
		if !slices.Contains(r.Workloads, e.Name) || !e.OnlyCounts && (!e.Counts || r.Clock != plan.ClockVirtual) {
			continue
		}
		n := s.count
		if e.MostCount > 0 {
			n = min(n, e.MostCount)
		}
		names, counts = append(names, e.Name), append(counts, n)
	}
	return names, counts
}
