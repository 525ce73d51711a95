package stat

import (
	"errors"
	"fmt"
	"math"
)

// TurnPoint is the number of policies from which on one arm takes at least as
// long as another, within 0..NMax. N and its interval are censored at both
// ends: 0 means that the arm is slower even without policies, NMax means NMax or
// more.
type TurnPoint struct {
	N    Estimate `json:"n"`
	None bool     `json:"none"` // the lines do not cross below NMax; N.Low is then the least n that cannot be excluded
	NMax float64  `json:"nmax"`
}

// Crossover finds the turn point: the smallest n at which the line through a's
// points is at or above the line through b's (or b's mean, if b was measured
// at one n only). The interval holds every n at which the two lines' difference
// cannot be distinguished from 0 (Fieller 1954). Where both arms have blocks, they are
// compared within each. An error says which points or blocks do not suffice.
func Crossover(a, b Points, nmax float64, opt CostOptions) (TurnPoint, error) {
	opt = opt.withDefaults()
	if !(nmax > 0) {
		return TurnPoint{}, fmt.Errorf("find crossover: largest n is %v, want more than 0", nmax)
	}
	la, err := a.arm(2, opt)
	if err != nil {
		return TurnPoint{}, fmt.Errorf("find crossover: %w", err)
	}
	lb, err := b.arm(1, opt)
	if err != nil {
		return TurnPoint{}, fmt.Errorf("find crossover: %w", err)
	}
	d, err := difference(la, lb, nmax)
	if err != nil {
		return TurnPoint{}, fmt.Errorf("find crossover: %w", err)
	}
	return d.turn(nmax, opt.Confidence), nil
}

// arm are the lines of one arm, which must have that many distinct n.
func (p Points) arm(levels int, opt CostOptions) ([]line, error) {
	if _, err := p.check(levels); err != nil {
		return nil, err
	}
	return p.lines(p.weights(opt.Relative))
}

// difference is the line a - b: the mean over common blocks, or of independent
// lines with the degrees of freedom of Satterthwaite (1946) at the turn point.
func difference(a, b []line, nmax float64) (line, error) {
	if a[0].ofBlock && b[0].ofBlock {
		var both []line
		for _, la := range a {
			for _, lb := range b {
				if la.block == lb.block {
					both = append(both, line{t0: la.t0 - lb.t0, c: la.c - lb.c, ofBlock: true})
				}
			}
		}
		if both == nil {
			return line{}, errors.New("the arms have no block in common")
		}
		return meanLine(both), nil
	}
	la, lb := meanLine(a), meanLine(b)
	d := line{t0: la.t0 - lb.t0, c: la.c - lb.c, v00: la.v00 + lb.v00, v01: la.v01 + lb.v01, v11: la.v11 + lb.v11,
		n: min(la.n, lb.n), method: MethodFieller}
	if la.df <= 0 || lb.df <= 0 {
		return d, nil
	}
	n, _ := d.root(nmax)
	va, vb := math.Pow(la.at(n).se, 2), math.Pow(lb.at(n).se, 2)
	d.df = satterthwaite(va, la.df, vb, lb.df)
	return d, nil
}

// root is the smallest n in 0..nmax at which the line is not below 0. If there is
// no such n below nmax, none is true.
func (l line) root(nmax float64) (n float64, none bool) {
	if l.t0 >= 0 {
		return 0, false
	}
	if n = -l.t0 / l.c; l.c > 0 && n < nmax {
		return n, false
	}
	return nmax, true
}

// turn inverts the band of the line. Its upper edge is convex in n and its
// lower edge concave, so each crosses 0 upwards at most once beyond a value
// below 0, and bisection finds it.
func (l line) turn(nmax, confidence float64) TurnPoint {
	n, none := l.root(nmax)
	tp := TurnPoint{N: Estimate{Estimate: n, Low: n, High: n, N: l.n, Method: l.method, Rough: l.at(0).rough()}, None: none, NMax: nmax}
	if !l.at(0).known() && !l.at(nmax).known() {
		return tp
	}
	q := l.at(0).quantile((1 + confidence) / 2)
	tp.N.Confidence = confidence
	tp.N.Low = rising(nmax, func(n float64) float64 { s := l.at(n); return s.est + q*s.se })
	tp.N.High = rising(nmax, func(n float64) float64 { s := l.at(n); return s.est - q*s.se })
	return tp
}

// rising is the n at which an edge of the band rises through 0 for the last time;
// nmax if the edge is below 0 there.
func rising(nmax float64, edge func(float64) float64) float64 {
	if edge(0) >= 0 {
		return 0
	}
	if edge(nmax) < 0 {
		return nmax
	}
	low, high := 0.0, nmax
	for range 100 {
		if mid := (low + high) / 2; edge(mid) < 0 {
			low = mid
		} else {
			high = mid
		}
	}
	return high
}
