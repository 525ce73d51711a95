package stat

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// MinCostPoints and MinBlocks are the numbers of points and of blocks from which
// on intervals of cost models have their stated confidence whatever the shape of
// the values. Below, they are Rough.
const (
	MinCostPoints = 45
	MinBlocks     = 30
)

// Names of the cost models.
const (
	CostFlat      = "flat"      // y = t0
	CostLinear    = "linear"    // y = t0 + slope n
	CostHinge     = "hinge"     // y = t0 + slope max(0, n - knot)
	CostQuadratic = "quadratic" // y = t0 + slope n + curve n²
)

// Points are the measurements of one arm: Y[i] seconds (or instructions) per
// transaction at N[i] policies. Give one point for each n and block (for example
// the median): trials of one block are not independent of each other.
type Points struct {
	N, Y  []float64
	Block []int // the block (boot or seed) of each point; nil = all points are independent
}

// CostOptions say how costs are fitted.
type CostOptions struct {
	Confidence float64 // of the intervals; 0 = 0.95
	Alpha      float64 // of CostFit.Flat, each side; 0 = 0.05
	Margin     float64 // of CostFit.Flat; 0 = 0.05
	// Relative gives each point the weight 1/y², where y is the mean at its n: for
	// errors that grow with the value. RSS is then of relative residuals.
	Relative  bool
	Bootstrap Bootstrap // of T0 and Slope of points without blocks
}

func (o CostOptions) withDefaults() CostOptions {
	for _, f := range []struct {
		value *float64
		def   float64
	}{{&o.Confidence, 0.95}, {&o.Alpha, 0.05}, {&o.Margin, 0.05}} {
		if *f.value == 0 {
			*f.value = f.def
		}
	}
	return o
}

// CostModel is one model of what n policies cost. Parameters that a model does
// not have are 0.
type CostModel struct {
	Name  string  `json:"name"`
	T0    float64 `json:"t0"`    // at n = 0: the path
	Slope float64 `json:"slope"` // of each policy, of a hinge beyond its knot
	// Knot is where a hinge begins to rise. If only the largest n lies beyond it,
	// the knot is the n before it, and any knot between the two fits as well.
	Knot   float64 `json:"knot"`
	Curve  float64 `json:"curve"`  // of n²
	RSS    float64 `json:"rss"`    // weighted residual sum of squares
	AICc   float64 `json:"aicc"`   // without the terms that all models share
	Weight float64 `json:"weight"` // Akaike weight, 0..1
	K      int     `json:"k"`      // parameters, the variance and the knot among them
}

// At is the model's y at n policies.
func (m CostModel) At(n float64) float64 {
	return m.T0 + m.Slope*max(0, n-m.Knot) + m.Curve*n*n
}

// CostFit is what n policies cost: the models for which there are enough points,
// and intercept and slope of the linear one.
type CostFit struct {
	Models []CostModel `json:"models"`
	Best   CostModel   `json:"best"`  // the model with the smallest AICc
	T0     Estimate    `json:"t0"`    // of the linear model: the path; without confidence if it is 0 or less
	Slope  Estimate    `json:"slope"` // of the linear model: each policy
	Flat   Equivalence `json:"flat"`  // the linear model at the largest n over that at the smallest
}

// FitCost fits the models of what n policies cost by least squares and gives
// each an Akaike weight from its AICc (Hurvich and Tsai 1989; Burnham and
// Anderson 2002). The hinge's knot is the exact optimum (Hudson 1966). Fewer than
// 4 points or 2 distinct n, and values that are not positive, are an error.
//
// Intervals are of the linear model. With blocks, each block has its own line
// and the interval is Student's t over blocks, so that it includes what a boot
// changes; one block has no confidence. Without blocks, errors are assumed to be
// independent and of one size (see Relative), and the interval is a bootstrap t
// of residuals from MinCostPoints points on, and that of least squares below. The
// interval of T0, which cannot be 0 or less, is of its logarithm.
func FitCost(p Points, opt CostOptions) (CostFit, error) {
	opt = opt.withDefaults()
	levels, err := p.check(2)
	if err != nil {
		return CostFit{}, fmt.Errorf("fit cost: %w", err)
	}
	if len(p.N) < 4 {
		return CostFit{}, fmt.Errorf("fit cost: %d points, want at least 4", len(p.N))
	}
	w := p.weights(opt.Relative)
	fit := CostFit{Models: costModels(p.N, p.Y, w, levels)}
	fit.Best = slices.MinFunc(fit.Models, func(a, b CostModel) int { return cmp.Compare(a.AICc, b.AICc) })
	if err := fit.linear(p, w, levels, opt); err != nil {
		return CostFit{}, fmt.Errorf("fit cost: %w", err)
	}
	return fit, nil
}

// linear sets T0, Slope and Flat, which are of the linear model.
func (f *CostFit) linear(p Points, w, levels []float64, opt CostOptions) error {
	lines, err := p.lines(w)
	if err != nil {
		return err
	}
	l := meanLine(lines)
	if p.Block == nil && len(p.N) >= MinCostPoints {
		f.T0, f.Slope = opt.Bootstrap.line(p, w, l, opt.Confidence)
	} else {
		f.T0, f.Slope = l.at(0).positive(opt.Confidence), l.slope().interval(opt.Confidence)
	}
	f.Flat = endRatio(lines, levels[0], levels[len(levels)-1]).equivalence(opt.Margin, opt.Alpha)
	return nil
}

// check returns the distinct n in ascending order, at least atLeast of them.
func (p Points) check(atLeast int) (levels []float64, err error) {
	if len(p.N) != len(p.Y) || p.Block != nil && len(p.Block) != len(p.N) {
		return nil, fmt.Errorf("%d n, %d y and %d blocks do not match", len(p.N), len(p.Y), len(p.Block))
	}
	for i, n := range p.N {
		if !(n >= 0) || math.IsInf(n, 1) || !(p.Y[i] > 0) || math.IsInf(p.Y[i], 1) {
			return nil, fmt.Errorf("point (%v, %v): want n >= 0 and y > 0, both finite", n, p.Y[i])
		}
	}
	levels = slices.Compact(ascending(p.N))
	if len(levels) < atLeast {
		return nil, fmt.Errorf("%d distinct n, want at least %d", len(levels), atLeast)
	}
	return levels, nil
}

// weights are the weight of each point in a fit, see CostOptions.Relative.
func (p Points) weights(relative bool) []float64 {
	w := make([]float64, len(p.N))
	if !relative {
		for i := range w {
			w[i] = 1
		}
		return w
	}
	sum, count := map[float64]float64{}, map[float64]float64{}
	for i, n := range p.N {
		sum[n] += p.Y[i]
		count[n]++
	}
	for i, n := range p.N {
		w[i] = math.Pow(count[n]/sum[n], 2)
	}
	return w
}

// lines fits one line to each block in ascending order, or one to all points. It
// refuses a block with a single n where the points have several: its line has no
// slope to average.
func (p Points) lines(w []float64) ([]line, error) {
	if p.Block == nil {
		return []line{fitLine(p.N, p.Y, w)}, nil
	}
	p, w = p.byBlock(w)
	var out []line
	sloped := !constant(p.N)
	for from := 0; from < len(p.N); {
		id, to := p.Block[from], from+1
		for to < len(p.N) && p.Block[to] == id {
			to++
		}
		if sloped && constant(p.N[from:to]) {
			return nil, fmt.Errorf("block %d has one n only", id)
		}
		l := fitLine(p.N[from:to], p.Y[from:to], w[from:to])
		l.block, l.ofBlock = id, true
		out, from = append(out, l), to
	}
	return out, nil
}

// byBlock are the points and their weights in ascending order of blocks, those of
// a block in their order.
func (p Points) byBlock(w []float64) (Points, []float64) {
	order := make([]int, len(p.N))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int { return cmp.Compare(p.Block[i], p.Block[j]) })
	out := Points{N: make([]float64, len(order)), Y: make([]float64, len(order)), Block: make([]int, len(order))}
	weights := make([]float64, len(order))
	for k, i := range order {
		out.N[k], out.Y[k], out.Block[k], weights[k] = p.N[i], p.Y[i], p.Block[i], w[i]
	}
	return out, weights
}

func constant(x []float64) bool { return slices.Min(x) == slices.Max(x) }

// costModels fits every model for which there are enough points.
func costModels(n, y, w, levels []float64) []CostModel {
	models := []CostModel{
		{Name: CostFlat, K: 2},
		{Name: CostLinear, K: 3},
		{Name: CostHinge, K: 4},
		{Name: CostQuadratic, K: 4},
	}
	out, floor := make([]CostModel, 0, len(models)), rounding(y, w)
	for _, m := range models {
		if len(n) <= m.K+1 || m.K == 4 && len(levels) < 3 {
			continue
		}
		m = m.fit(n, y, w, levels)
		m.AICc = aicc(max(m.RSS, floor), len(n), m.K)
		out = append(out, m)
	}
	return akaikeWeights(out)
}

// rounding is a sum of squares below which residuals are only the rounding of the
// recorded values, 1e-9 of the value: models of exact data of virtual time must
// not compete for the last digit.
func rounding(y, w []float64) float64 {
	sum := 0.0
	for i, v := range y {
		sum += w[i] * v * v
	}
	return sum * 1e-18
}

// fit sets the parameters of the model that m names, and their RSS.
func (m CostModel) fit(n, y, w, levels []float64) CostModel {
	switch m.Name {
	case CostFlat:
		m.T0 = fitLine(make([]float64, len(n)), y, w).t0
	case CostLinear:
		l := fitLine(n, y, w)
		m.T0, m.Slope = l.t0, l.c
	case CostHinge:
		return m.fitHinge(n, y, w, levels)
	case CostQuadratic:
		m.T0, m.Slope, m.Curve = fitParabola(n, y, w)
	}
	m.RSS = m.residual(n, y, w)
	return m
}

func (m CostModel) residual(n, y, w []float64) float64 {
	rss := 0.0
	for i := range n {
		r := y[i] - m.At(n[i])
		rss += w[i] * r * r
	}
	return rss
}

// fitHinge tries every knot that can be the optimum (Hudson 1966), see knots.
func (m CostModel) fitHinge(n, y, w, levels []float64) CostModel {
	best := m
	best.RSS = math.Inf(1)
	for _, k := range knots(n, y, w, levels) {
		h := make([]float64, len(n))
		for i := range n {
			h[i] = max(0, n[i]-k)
		}
		l := fitLine(h, y, w)
		m.T0, m.Slope, m.Knot = l.t0, l.c, k
		if m.RSS = m.residual(n, y, w); m.RSS < best.RSS {
			best = m
		}
	}
	return best
}

// knots are each n except the last, and for each gap between two n the point
// where the mean on its left meets the line on its right, if it is in that gap.
func knots(n, y, w, levels []float64) []float64 {
	last := len(levels) - 1
	out := slices.Clone(levels[:last])
	for j := 0; j < last-1; j++ {
		var left, right [3][]float64
		for i := range n {
			side := &left
			if n[i] > levels[j] {
				side = &right
			}
			side[0], side[1], side[2] = append(side[0], n[i]), append(side[1], y[i]), append(side[2], w[i])
		}
		flat, rise := fitLine(make([]float64, len(left[0])), left[1], left[2]), fitLine(right[0], right[1], right[2])
		if k := (flat.t0 - rise.t0) / rise.c; k > levels[j] && k < levels[j+1] {
			out = append(out, k)
		}
	}
	return out
}

// fitParabola is weighted least squares of a quadratic, by orthogonal
// polynomials on the points (Forsythe 1957), so that n and n² do not cancel.
func fitParabola(n, y, w []float64) (t0, slope, curve float64) {
	l := fitLine(n, y, w)
	square := make([]float64, len(n))
	for i, v := range n {
		square[i] = v * v
	}
	q := fitLine(n, square, w) // n² less this line is orthogonal to 1 and n
	num, den := 0.0, 0.0
	for i := range n {
		z := square[i] - q.t0 - q.c*n[i]
		num += w[i] * z * (y[i] - l.t0 - l.c*n[i])
		den += w[i] * z * z
	}
	curve = num / den
	return l.t0 - curve*q.t0, l.c - curve*q.c, curve
}

// aicc is Akaike's criterion corrected for small samples, for least squares
// with k parameters, the variance among them (Hurvich and Tsai 1989).
func aicc(rss float64, n, k int) float64 {
	fn, fk := float64(n), float64(k)
	return fn*math.Log(rss/fn) + 2*fk + 2*fk*(fk+1)/(fn-fk-1)
}

// akaikeWeights sets each model's Akaike weight (Burnham and Anderson 2002).
func akaikeWeights(models []CostModel) []CostModel {
	least, sum := math.Inf(1), 0.0
	for _, m := range models {
		least = min(least, m.AICc)
	}
	for i := range models {
		models[i].Weight = math.Exp((least - models[i].AICc) / 2)
		sum += models[i].Weight
	}
	for i := range models {
		models[i].Weight /= sum
	}
	return models
}

// line is y = t0 + c n with the covariance of t0 and c.
type line struct {
	t0, c         float64
	v00, v01, v11 float64
	df            float64
	n             int
	method        string
	block         int
	ofBlock       bool
}

func (l line) at(n float64) student {
	v := l.v00 + 2*n*l.v01 + n*n*l.v11
	return student{est: l.t0 + l.c*n, se: math.Sqrt(max(0, v)), df: l.df, n: l.n, method: l.method}
}

func (l line) slope() student {
	return student{est: l.c, se: math.Sqrt(l.v11), df: l.df, n: l.n, method: l.method}
}

// fitLine is weighted least squares of a line; of a constant, if all n are equal.
func fitLine(n, y, w []float64) line { return newDesign(n, w).fit(y) }

// design is the part of a line's least squares that depends on n and the weights
// only, so that a bootstrap computes it once.
type design struct {
	n, w []float64
	lean []float64 // w[i] (n[i] - mean)
	sum  float64   // of the weights
	mean float64   // weighted, of n
	sxx  float64   // weighted sum of squares of n around its mean
}

func newDesign(n, w []float64) design {
	d := design{n: n, w: w, lean: make([]float64, len(n))}
	for i := range n {
		d.sum += w[i]
		d.mean += w[i] * n[i]
	}
	d.mean /= d.sum
	for i := range n {
		d.lean[i] = w[i] * (n[i] - d.mean)
		d.sxx += d.lean[i] * (n[i] - d.mean)
	}
	return d
}

// fit is the line through y.
func (d design) fit(y []float64) line {
	my, sxy := 0.0, 0.0
	for i, v := range y {
		my += d.w[i] * v
	}
	my /= d.sum
	for i, v := range y {
		sxy += d.lean[i] * (v - my)
	}
	l := line{t0: my, df: float64(len(d.n) - 1), n: len(d.n), method: MethodLeastSq}
	if d.sxx > 0 {
		l.c, l.df = sxy/d.sxx, l.df-1
		l.t0 = my - l.c*d.mean
	}
	rss := 0.0
	for i, v := range y {
		r := v - (l.t0 + l.c*d.n[i])
		rss += d.w[i] * r * r
	}
	if l.df <= 0 || rss <= rounding(y, d.w)*1e-6 {
		return l
	}
	s2 := rss / l.df
	l.v00 = s2 / d.sum
	if d.sxx > 0 {
		l.v00, l.v01, l.v11 = s2*(1/d.sum+d.mean*d.mean/d.sxx), -d.mean*s2/d.sxx, s2/d.sxx
	}
	return l
}

// line is the intervals of a line's intercept and slope by a bootstrap t of
// residuals that are corrected for their leverage (Davison and Hinkley 1997,
// sections 5.2 and 6.2).
func (b Bootstrap) line(p Points, w []float64, l line, confidence float64) (t0, slope Estimate) {
	t0, slope = l.at(0).positive(confidence), l.slope().interval(confidence)
	if l.v00 == 0 {
		return t0, slope // no spread: the intervals are points
	}
	at0, rise := b.lineChanges(p, w, l)
	if len(at0) == 0 {
		return t0, slope
	}
	slope = studentized(slope, rise, math.Sqrt(l.v11))
	if !(l.t0 > 0) {
		return t0, slope
	}
	logT0 := t0
	logT0.Estimate, logT0.Confidence = math.Log(l.t0), confidence
	logT0 = studentized(logT0, at0, math.Sqrt(l.v00)/l.t0)
	logT0.Estimate, logT0.Low, logT0.High = l.t0, math.Exp(logT0.Low), math.Exp(logT0.High)
	return logT0.bounded(), slope
}

// lineChanges are the changes of intercept (of its logarithm) and slope in each
// resample with any spread, both in standard errors of the resample.
func (b Bootstrap) lineChanges(p Points, w []float64, l line) (at0, rise []float64) {
	rng, residuals, d := b.rand(), l.residuals(p, w), newDesign(p.N, w)
	fitted, root, y := make([]float64, len(w)), make([]float64, len(w)), make([]float64, len(w))
	for i, n := range p.N {
		fitted[i], root[i] = l.t0+l.c*n, math.Sqrt(w[i])
	}
	at0, rise = make([]float64, 0, b.resamples()), make([]float64, 0, b.resamples())
	for range b.resamples() {
		for i := range y {
			y[i] = fitted[i] + residuals[rng.IntN(len(residuals))]/root[i]
		}
		if r := d.fit(y); r.v00 > 0 {
			at0, rise = append(at0, logChange(r, l)), append(rise, (r.c-l.c)/math.Sqrt(r.v11))
		}
	}
	return at0, rise
}

// logChange is the difference of the logarithms of the intercepts of two lines,
// r less l, in standard errors of r.
func logChange(r, l line) float64 {
	if !(r.t0 > 0) {
		return math.Inf(-1)
	}
	return math.Log(r.t0/l.t0) / (math.Sqrt(r.v00) / r.t0)
}

// studentized is e with the bootstrap t interval of the studentized changes reps.
func studentized(e Estimate, reps []float64, se float64) Estimate {
	slices.Sort(reps)
	tail := (1 - e.Confidence) / 2
	e.Low, e.High = e.Estimate-quantile(reps, 1-tail)*se, e.Estimate-quantile(reps, tail)*se
	e.Method = MethodBootstrapT
	return e
}

// residuals are the weighted residuals of a line over sqrt(1 - leverage), so that
// all have one variance, less their mean.
func (l line) residuals(p Points, w []float64) []float64 {
	s2 := l.v00 - l.v01*l.v01/l.v11 // of all points, over the sum of their weights
	sw := 0.0
	for _, v := range w {
		sw += v
	}
	s2 *= sw
	out := make([]float64, len(w))
	for i, n := range p.N {
		leverage := w[i] * math.Pow(l.at(n).se, 2) / s2
		out[i] = math.Sqrt(w[i]) * (p.Y[i] - l.t0 - l.c*n) / math.Sqrt(max(1e-6, 1-leverage))
	}
	m := Mean(out)
	for i := range out {
		out[i] -= m
	}
	return out
}

// meanLine is a single line unchanged, or the mean of the blocks' lines with the
// covariance between blocks.
func meanLine(lines []line) line {
	if !lines[0].ofBlock {
		return lines[0]
	}
	m := line{df: float64(len(lines) - 1), n: len(lines), method: MethodBlocks}
	t0, c := make([]float64, len(lines)), make([]float64, len(lines))
	for i, l := range lines {
		t0[i], c[i] = l.t0, l.c
	}
	m.t0, m.c = Mean(t0), Mean(c)
	if len(lines) < 2 {
		return m
	}
	scale := 1 / (m.df * float64(len(lines)))
	for i := range lines {
		m.v00 += scale * (t0[i] - m.t0) * (t0[i] - m.t0)
		m.v01 += scale * (t0[i] - m.t0) * (c[i] - m.c)
		m.v11 += scale * (c[i] - m.c) * (c[i] - m.c)
	}
	return m
}

// endRatio is the log of y(to) over y(from), by blocks or by the delta method.
func endRatio(lines []line, from, to float64) student {
	var d []float64
	for _, l := range lines {
		a, b := l.at(to).est, l.at(from).est
		if !(a > 0 && b > 0) {
			return student{est: math.NaN(), n: len(lines)}
		}
		d = append(d, math.Log(a/b))
	}
	l := lines[0]
	if l.ofBlock {
		return logDifference(d, MethodBlocks)
	}
	a, b := l.at(to).est, l.at(from).est
	g0, g1 := 1/a-1/b, to/a-from/b
	v := g0*g0*l.v00 + 2*g0*g1*l.v01 + g1*g1*l.v11
	return student{est: d[0], se: math.Sqrt(max(0, v)), df: l.df, n: l.n, method: l.method}
}
