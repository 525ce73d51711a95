package stat

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

// cars is R's data set of that name (Ezekiel 1930): stopping distance over speed.
func cars() Points {
	return Points{
		N: []float64{4, 4, 7, 7, 8, 9, 10, 10, 10, 11, 11, 12, 12, 12, 12, 13, 13, 13, 13, 14, 14, 14, 14, 15, 15,
			15, 16, 16, 17, 17, 17, 18, 18, 18, 18, 19, 19, 19, 20, 20, 20, 20, 20, 22, 23, 24, 24, 24, 24, 25},
		Y: []float64{2, 10, 4, 22, 16, 10, 18, 26, 34, 17, 28, 14, 20, 24, 28, 26, 34, 34, 46, 26, 36, 60, 80, 20, 26,
			54, 32, 40, 32, 40, 50, 42, 56, 76, 84, 36, 46, 68, 32, 48, 52, 56, 64, 66, 54, 70, 92, 93, 120, 85},
	}
}

func model(t *testing.T, f CostFit, name string) CostModel {
	t.Helper()
	for _, m := range f.Models {
		if m.Name == name {
			return m
		}
	}
	t.Fatalf("no model %s in %+v", name, f.Models)
	return CostModel{}
}

// R: m <- lm(dist ~ speed, cars); confint(m); deviance(m); AIC(m), and
// lm(dist ~ speed + I(speed^2), cars).
func TestFitCostPublishedExample(t *testing.T) {
	p := cars()
	l := fitLine(p.N, p.Y, p.weights(false))
	t0, slope := l.at(0).interval(0.95), l.slope().interval(0.95)
	near(t, "intercept", t0.Estimate, -17.579095, 1e-6)
	near(t, "intercept, low", t0.Low, -31.167850, 1e-6)
	near(t, "intercept, high", t0.High, -3.990340, 1e-6)
	near(t, "slope", slope.Estimate, 3.932409, 1e-6)
	near(t, "slope, low", slope.Low, 3.096964, 1e-6)
	near(t, "slope, high", slope.High, 4.767853, 1e-6)
	f, err := FitCost(p, CostOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m1, m3 := model(t, f, CostLinear), model(t, f, CostQuadratic)
	near(t, "RSS", m1.RSS, 11353.52, 0.005)
	// AIC(m) = 419.1569, with n (1 + log 2 pi), without 2 k (k + 1) / (n - k - 1).
	near(t, "AICc", m1.AICc+50*(1+math.Log(2*math.Pi))-24.0/46, 419.1569, 5e-5)
	near(t, "quadratic, intercept", m3.T0, 2.47014, 5e-6)
	near(t, "quadratic, slope", m3.Slope, 0.91329, 5e-6)
	near(t, "quadratic, curve", m3.Curve, 0.09996, 5e-6)
	// The bootstrap t differs from t by the skewness of the residuals only.
	near(t, "bootstrapped slope, low", f.Slope.Low, slope.Low, 0.25)
	near(t, "bootstrapped slope, high", f.Slope.High, slope.High, 0.25)
	if f.Slope.Method != MethodBootstrapT || f.Slope.N != 50 || f.Slope.Rough || f.Slope.Confidence != 0.95 {
		t.Errorf("%+v", f.Slope)
	}
	if f.T0.Confidence != 0 { // a car at speed 0 does not stop after -18 feet
		t.Errorf("a path below nothing: %+v", f.T0)
	}
	f, err = FitCost(Points{N: p.N[:20], Y: p.Y[:20]}, CostOptions{})
	if err != nil || f.T0.Method != MethodLeastSq || !f.T0.Rough {
		t.Errorf("20 points: %+v, %v", f.T0, err)
	}
}

// Residuals over sqrt(1 - leverage), against the leverages worked out by hand
// for n = 0, 1, 2, 3: without weights 1/4 + (n - 1.5)² / 5; with weights 1, 4,
// 1, 2 (sum 8, mean n 1.5, sum of squares 1*2.25 + 4*0.25 + 1*0.25 + 2*2.25 = 8)
// w/8 + w (n - 1.5)² / 8.
func TestResidualsAreFreedOfLeverage(t *testing.T) {
	p := Points{N: []float64{0, 1, 2, 3}, Y: []float64{1, 3, 2, 5}}
	for _, tt := range []struct{ w, leverage []float64 }{
		{[]float64{1, 1, 1, 1}, []float64{0.7, 0.3, 0.3, 0.7}},
		{[]float64{1, 4, 1, 2}, []float64{3.25 / 8, 5.0 / 8, 1.25 / 8, 6.5 / 8}},
	} {
		l := fitLine(p.N, p.Y, tt.w)
		got, want := l.residuals(p, tt.w), make([]float64, 4)
		for i, n := range p.N {
			want[i] = math.Sqrt(tt.w[i]/(1-tt.leverage[i])) * (p.Y[i] - l.t0 - l.c*n)
		}
		m := Mean(want)
		for i := range want {
			near(t, "residual", got[i], want[i]-m, 1e-9)
		}
	}
}

// Models of Hald's cement data (n = 13; Burnham and Anderson 2002, section
// 3.2) as the R package MuMIn tabulates them by dredge: parameters, log
// likelihood, AICc, Akaike weight.
func TestAICcPublishedExample(t *testing.T) {
	table := []struct {
		k                    int
		logLik, aicc, weight float64
	}{
		{4, -28.156, 69.3, 0.566}, {5, -26.933, 72.4, 0.119}, {5, -26.952, 72.5, 0.116},
		{4, -29.817, 72.6, 0.107}, {5, -27.310, 73.2, 0.081}, {5, -29.734, 78.0, 0.007},
		{6, -26.918, 79.8, 0.003}, {4, -35.372, 83.7, 0}, {3, -45.872, 100.4, 0},
	}
	constant := 13 * (1 + math.Log(2*math.Pi))
	models := make([]CostModel, len(table))
	for i, row := range table {
		rss := 13 * math.Exp((-2*row.logLik-constant)/13)
		models[i] = CostModel{AICc: aicc(rss, 13, row.k)}
		near(t, "AICc", models[i].AICc+constant, row.aicc, 0.06)
	}
	for i, m := range akaikeWeights(models) {
		near(t, "Akaike weight", m.Weight, table[i].weight, 0.001)
	}
}

// The variance of log a - log b is Va/a² + Vb/b² - 2 Cov/(a b).
func TestFlatWithoutBlocks(t *testing.T) {
	p := cars()
	f, err := FitCost(p, CostOptions{Alpha: 0.1, Margin: 3})
	if err != nil {
		t.Fatal(err)
	}
	// Of the line at speeds 4 and 25, which is -1.85 at 4: there is no ratio.
	if !math.IsNaN(f.Flat.Ratio.Estimate) || f.Flat.P != 1 || f.Flat.Equivalent || f.Flat.Different {
		t.Errorf("ratio to a negative time: %+v", f.Flat)
	}
	for i := range p.Y {
		p.Y[i] += 100
	}
	if f, err = FitCost(p, CostOptions{Alpha: 0.1, Margin: 3}); err != nil {
		t.Fatal(err)
	}
	l := fitLine(p.N, p.Y, p.weights(false))
	a, b := l.at(25), l.at(4)
	cov := l.v00 + 29*l.v01 + 100*l.v11
	se := math.Sqrt(a.se*a.se/(a.est*a.est) + b.se*b.se/(b.est*b.est) - 2*cov/(a.est*b.est))
	mid := math.Log(a.est / b.est)
	half := a.quantile(0.9) * se
	nearLog(t, "ratio", f.Flat.Ratio, mid, mid-half, mid+half, 1e-12)
	if !f.Flat.Equivalent || f.Flat.Margin != 3 || math.Abs(f.Flat.Ratio.Confidence-0.8) > 1e-12 {
		t.Errorf("%+v", f.Flat)
	}
}

// studyLevels are the numbers of policies of the study.
func studyLevels() []float64 { return []float64{0, 1, 5, 10, 25, 50, 100, 200, 1000} }

// exact are points of a model without noise.
func exact(m CostModel, times int) Points {
	var p Points
	for range times {
		for _, n := range studyLevels() {
			p.N, p.Y = append(p.N, n), append(p.Y, m.At(n))
		}
	}
	return p
}

func TestFitCostFindsExactModels(t *testing.T) {
	for _, want := range []CostModel{
		{Name: CostFlat, T0: 20e-6},
		{Name: CostLinear, T0: 20e-6, Slope: 3e-8},
		{Name: CostHinge, T0: 20e-6, Slope: 3e-8, Knot: 50},
		{Name: CostHinge, T0: 20e-6, Slope: 3e-8, Knot: 70},
		{Name: CostHinge, T0: 20e-6, Slope: 3e-8, Knot: 12.5},
		{Name: CostQuadratic, T0: 20e-6, Slope: 3e-8, Curve: 2e-11},
	} {
		for _, relative := range []bool{false, true} {
			f, err := FitCost(exact(want, 2), CostOptions{Relative: relative})
			if err != nil {
				t.Fatal(err)
			}
			b := f.Best
			if b.Name != want.Name {
				t.Errorf("%+v taken for %+v", want, b)
				continue
			}
			near(t, want.Name+" t0", b.T0, want.T0, 1e-12)
			near(t, want.Name+" slope", b.Slope, want.Slope, 1e-14)
			near(t, want.Name+" knot", b.Knot, want.Knot, 1e-4)
			near(t, want.Name+" curve", b.Curve, want.Curve, 1e-17)
			sum := 0.0
			for _, m := range f.Models {
				sum += m.Weight
			}
			near(t, "sum of weights", sum, 1, 1e-9)
		}
	}
}

// If costs rise at the largest n only, the knot is somewhere in the last gap; the
// model has the n before it.
func TestHingeInTheLastGap(t *testing.T) {
	p := exact(CostModel{T0: 1, Slope: 0.01, Knot: 600}, 2)
	f, err := FitCost(p, CostOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if f.Best.Name != CostHinge || f.Best.Knot != 200 {
		t.Errorf("%+v", f.Best)
	}
	near(t, "at 1000", f.Best.At(1000), 5, 1e-9)
	near(t, "at 200", f.Best.At(200), 1, 1e-9)
}

// With noise, AICc picks the model that made the data most of the time.
func TestAICcPicksTheModel(t *testing.T) {
	rng := rand.New(rand.NewPCG(21, 22))
	for _, want := range []CostModel{
		{Name: CostFlat, T0: 20}, {Name: CostLinear, T0: 20, Slope: 0.02},
		{Name: CostHinge, T0: 20, Slope: 0.02, Knot: 100}, {Name: CostQuadratic, T0: 20, Slope: 0.02, Curve: 0.00002}} {
		picked := 0
		for range 200 {
			p := exact(want, 3)
			for i := range p.Y {
				p.Y[i] *= 1 + 0.01*rng.NormFloat64()
			}
			f, err := FitCost(p, CostOptions{Relative: true})
			if err != nil {
				t.Fatal(err)
			}
			if f.Best.Name == want.Name {
				picked++
			}
		}
		t.Logf("%s picked %d times of 200", want.Name, picked)
		if picked < 140 {
			t.Errorf("%s picked %d times of 200", want.Name, picked)
		}
	}
}

// Each block lies exactly on its own line: the interval is Student's t over the
// slopes 1, 2, 3: 2 ± t(0.975, 2) / sqrt(3).
func TestFitCostOverBlocks(t *testing.T) {
	var p Points
	for b, slope := range []float64{1, 2, 3} {
		for _, n := range []float64{0, 10, 20} {
			p.N, p.Y, p.Block = append(p.N, n), append(p.Y, 100+slope*n), append(p.Block, b+1)
		}
	}
	f, err := FitCost(p, CostOptions{Margin: 0.5})
	if err != nil {
		t.Fatal(err)
	}
	near(t, "slope", f.Slope.Estimate, 2, 1e-9)
	near(t, "slope, low", f.Slope.Low, 2-4.302653/math.Sqrt(3), 1e-6)
	near(t, "t0", f.T0.Estimate, 100, 1e-9)
	near(t, "flat", f.Flat.Ratio.Estimate, math.Cbrt(1.2*1.4*1.6), 1e-9)
	if f.Slope.Method != MethodBlocks || f.Slope.N != 3 || f.Flat.Ratio.Method != MethodBlocks {
		t.Errorf("%+v", f.Slope)
	}
	one := Points{N: p.N[:3], Y: p.Y[:3], Block: p.Block[:3]}
	one.N, one.Y, one.Block = append(one.N, 30), append(one.Y, 130), append(one.Block, 1)
	f, err = FitCost(one, CostOptions{})
	if err != nil || f.Slope.Confidence != 0 || f.Flat.Equivalent || f.Flat.Different {
		t.Errorf("one block: %+v, %v", f, err)
	}
}

func TestFitCostRefusals(t *testing.T) {
	for name, p := range map[string]Points{
		"3 points":      {N: []float64{0, 1, 2}, Y: []float64{1, 1, 1}},
		"1 distinct n":  {N: []float64{5, 5, 5, 5}, Y: []float64{1, 2, 3, 4}},
		"n >= 0":        {N: []float64{-1, 1, 2, 3}, Y: []float64{1, 1, 1, 1}},
		"y > 0":         {N: []float64{0, 1, 2, 3}, Y: []float64{1, 1, math.NaN(), 1}},
		"do not match":  {N: []float64{0, 1, 2, 3}, Y: []float64{1}},
		"one n only":    {N: []float64{0, 1, 2, 3}, Y: []float64{1, 1, 1, 1}, Block: []int{1, 1, 1, 2}},
		"and 2 blocks ": {N: []float64{0, 1}, Y: []float64{1, 1}, Block: []int{1, 2}},
	} {
		_, err := FitCost(p, CostOptions{})
		if name == "and 2 blocks " {
			name = "fit cost"
		}
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Fieller's interval solved by hand as a quadratic: one arm's line against an
// exact constant.
func TestCrossoverMatchesFieller(t *testing.T) {
	rng := rand.New(rand.NewPCG(31, 32))
	a := exact(CostModel{T0: 20, Slope: 0.02}, 5)
	for i := range a.Y {
		a.Y[i] += 0.3 * rng.NormFloat64()
	}
	b := Points{N: []float64{0, 0, 0}, Y: []float64{28, 28, 28}}
	tp, err := Crossover(a, b, 1000, CostOptions{})
	if err != nil {
		t.Fatal(err)
	}
	l := fitLine(a.N, a.Y, a.weights(false))
	q := l.at(0).quantile(0.975)
	d := l.t0 - 28
	qa, qb, qc := l.c*l.c-q*q*l.v11, d*l.c-q*q*l.v01, d*d-q*q*l.v00
	root := math.Sqrt(qb*qb - qa*qc)
	near(t, "turn point", tp.N.Estimate, -d/l.c, 1e-9)
	near(t, "low", tp.N.Low, (-qb-root)/qa, 1e-6)
	near(t, "high", tp.N.High, (-qb+root)/qa, 1e-6)
	if tp.None || tp.N.Confidence != 0.95 || tp.NMax != 1000 {
		t.Errorf("%+v", tp)
	}
}

// Two noisy lines: variances and covariances add up.
func TestCrossoverOfTwoNoisyArms(t *testing.T) {
	rng := rand.New(rand.NewPCG(33, 34))
	a, b := exact(CostModel{T0: 20, Slope: 0.02}, 3), exact(CostModel{T0: 22, Slope: 0.01}, 5)
	for _, p := range []Points{a, b} {
		for i := range p.Y {
			p.Y[i] += 0.3 * rng.NormFloat64()
		}
	}
	tp, err := Crossover(a, b, 1000, CostOptions{Confidence: 0.9})
	if err != nil {
		t.Fatal(err)
	}
	la, lb := fitLine(a.N, a.Y, a.weights(false)), fitLine(b.N, b.Y, b.weights(false))
	n := (lb.t0 - la.t0) / (la.c - lb.c)
	va, vb := math.Pow(la.at(n).se, 2), math.Pow(lb.at(n).se, 2)
	df := (va + vb) * (va + vb) / (va*va/la.df + vb*vb/lb.df)
	q := student{df: df}.quantile(0.95)
	for _, edge := range []float64{tp.N.Low, tp.N.High} {
		ea, eb := la.at(edge), lb.at(edge)
		near(t, "distance at the edge, in standard errors", math.Abs(ea.est-eb.est)/math.Hypot(ea.se, eb.se), q, 1e-6)
	}
	near(t, "turn point", tp.N.Estimate, n, 1e-9)
	if !(tp.N.Low < n && n < tp.N.High) || tp.N.Method != MethodFieller || !tp.N.Rough || tp.N.N != 27 {
		t.Errorf("%+v", tp)
	}
}

func TestCrossoverAtItsEnds(t *testing.T) {
	rising := CostModel{T0: 20, Slope: 0.02}
	at := func(y float64) Points { return exact(CostModel{T0: y}, 2) }
	tests := []struct {
		name      string
		b         Points
		n         float64
		low, high float64
		none      bool
	}{
		{"crosses", at(30), 500, 500, 500, false},
		{"slower from the start", at(10), 0, 0, 0, false},
		{"never", at(50), 1000, 1000, 1000, true},
		{"parallel below", exact(CostModel{T0: 21, Slope: 0.02}, 2), 1000, 1000, 1000, true},
		{"falls behind", exact(CostModel{T0: 21, Slope: 0.03}, 2), 1000, 1000, 1000, true},
	}
	for _, tt := range tests {
		tp, err := Crossover(exact(rising, 2), tt.b, 1000, CostOptions{})
		if err != nil {
			t.Fatal(err)
		}
		near(t, tt.name, tp.N.Estimate, tt.n, 1e-6)
		near(t, tt.name+", low", tp.N.Low, tt.low, 1e-6)
		near(t, tt.name+", high", tp.N.High, tt.high, 1e-6)
		if tp.None != tt.none {
			t.Errorf("%s: %+v", tt.name, tp)
		}
	}
}

// Blocks may each be slow or fast; within a block the arms cross at the same n.
func TestCrossoverWithinBlocks(t *testing.T) {
	var a, b Points
	for block, speed := range []float64{1, 1.5, 2, 3} {
		for _, n := range studyLevels() {
			a.N, a.Y, a.Block = append(a.N, n), append(a.Y, speed*(20+0.02*n)), append(a.Block, block)
			b.N, b.Y, b.Block = append(b.N, n), append(b.Y, speed*25), append(b.Block, block)
		}
	}
	tp, err := Crossover(a, b, 1000, CostOptions{})
	if err != nil {
		t.Fatal(err)
	}
	near(t, "turn point", tp.N.Estimate, 250, 1e-6)
	near(t, "low", tp.N.Low, 250, 1e-3)
	near(t, "high", tp.N.High, 250, 1e-3)
	if tp.N.Method != MethodBlocks || tp.N.N != 4 {
		t.Errorf("%+v", tp)
	}
	for i := range b.Block {
		b.Block[i] += 10
	}
	if _, err := Crossover(a, b, 1000, CostOptions{}); err == nil || !strings.Contains(err.Error(), "no block in common") {
		t.Errorf("strange blocks: %v", err)
	}
	if _, err := Crossover(a, b, 0, CostOptions{}); err == nil {
		t.Error("largest n 0 accepted")
	}
	if _, err := Crossover(Points{}, b, 1, CostOptions{}); err == nil {
		t.Error("no points accepted")
	}
}
