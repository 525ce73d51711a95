package stat

import (
	"math"

	"gonum.org/v1/gonum/stat/distuv"
)

// MinPairs is the number of pairs (of TOSTUnpaired, of values on either side)
// from which on PairedRatio and TOST have their stated confidence whatever the
// shape of the values. Below, their intervals are Rough: the confidence is right
// if the logs are normal or both arms have the same shape.
const MinPairs = 20

// PairedRatio is the ratio of two arms measured in the same blocks or seeds:
// num[i] and den[i] are the same block. The estimate is the geometric mean of
// the ratios, exp(mean log ratio); its interval is Student's t on the logs. A
// single pair has no confidence. Where every pair has the same ratio the
// interval is that point, with confidence from three pairs on. All are NaN unless
// the two have the same length, are not empty, and all values are positive.
func PairedRatio(num, den []float64, confidence float64) Estimate {
	return logDifference(pairedLogs(num, den), MethodPaired).ratio(confidence)
}

// Equivalence is the verdict of two one-sided tests (Schuirmann 1987) on a
// ratio. Neither Equivalent nor Different is undecided: not significant is not
// equivalent.
type Equivalence struct {
	Ratio      Estimate `json:"ratio"`      // with its interval of confidence 1 - 2 alpha
	Margin     float64  `json:"margin"`     // the ratio is as good as 1 within (1/(1+margin), 1+margin)
	Equivalent bool     `json:"equivalent"` // the interval lies inside the margin
	Different  bool     `json:"different"`  // the interval lies wholly outside it
	P          float64  `json:"p"`          // of the test of equivalence; 1 where it cannot be made
}

// TOST tests whether num over den, paired as in PairedRatio, is within
// (1/(1+margin), 1+margin), by two one-sided t tests on the logs at alpha
// each (Schuirmann 1987, J. Pharmacokinet. Biopharm. 15:657).
func TOST(num, den []float64, margin, alpha float64) Equivalence {
	return logDifference(pairedLogs(num, den), MethodPaired).equivalence(margin, alpha)
}

// TOSTUnpaired is TOST for two independent samples, by Welch's t on the logs
// (Welch 1947), so the two may spread differently. The ratio is that of their
// geometric means. Below two values on either side nothing is decided.
func TOSTUnpaired(num, den []float64, margin, alpha float64) Equivalence {
	return welch(num, den).equivalence(margin, alpha)
}

// student is an estimate whose error follows Student's t: se with df degrees
// of freedom. A se of 0 with df < 2 says nothing about the spread.
type student struct {
	est, se, df float64
	n           int
	method      string
}

// interval is est ± t se; without degrees of freedom, est without confidence.
func (s student) interval(confidence float64) Estimate {
	e := Estimate{Estimate: s.est, Low: s.est, High: s.est, N: s.n, Method: s.method, Rough: s.rough()}
	if !s.known() {
		return e
	}
	half := s.quantile((1+confidence)/2) * s.se
	e.Low, e.High, e.Confidence = s.est-half, s.est+half, confidence
	return e
}

// rough reports whether there are too few points for a distribution of any shape.
func (s student) rough() bool {
	switch s.method {
	case MethodPaired, MethodWelch:
		return s.n < MinPairs
	case MethodBlocks:
		return s.n < MinBlocks
	case MethodLeastSq, MethodFieller:
		return s.n < MinCostPoints
	}
	return false
}

// known reports whether the spread is known: two equal values are no evidence
// that there is none.
func (s student) known() bool {
	return s.df > 0 && (s.se > 0 || s.df >= 2)
}

func (s student) quantile(p float64) float64 {
	return distuv.StudentsT{Mu: 0, Sigma: 1, Nu: s.df}.Quantile(p)
}

// upper is the probability of an estimate above est if the true value were at.
func (s student) upper(at float64) float64 {
	if s.se == 0 {
		if s.est > at {
			return 0
		}
		return 1
	}
	return distuv.StudentsT{Mu: 0, Sigma: 1, Nu: s.df}.Survival((s.est - at) / s.se)
}

// ratio is interval for the logarithm of a ratio, given as the ratio.
func (s student) ratio(confidence float64) Estimate {
	e := s.interval(confidence)
	e.Estimate, e.Low, e.High = math.Exp(e.Estimate), math.Exp(e.Low), math.Exp(e.High)
	return e.bounded()
}

// positive is interval for a quantity that cannot be 0 or less: the interval of
// its logarithm, by the delta method. If the estimate itself is not positive, the
// model is wrong, and there is no confidence.
func (s student) positive(confidence float64) Estimate {
	e := s
	e.est, e.se = math.Log(s.est), s.se/s.est
	if !(s.est > 0) {
		return Estimate{Estimate: s.est, Low: s.est, High: s.est, N: s.n, Method: s.method, Rough: s.rough()}
	}
	out := e.ratio(confidence)
	out.Estimate = s.est
	if s.se == 0 { // the point itself, not what its logarithm rounds to
		out.Low, out.High = s.est, s.est
	}
	return out
}

// equivalence is the verdict on s, the logarithm of a ratio.
func (s student) equivalence(margin, alpha float64) Equivalence {
	out := Equivalence{Ratio: s.ratio(1 - 2*alpha), Margin: margin, P: 1}
	if !(out.Ratio.Confidence > 0) || math.IsNaN(s.est) {
		return out
	}
	bound, mirrored := math.Log1p(margin), s
	mirrored.est = -s.est
	out.P = max(s.upper(-bound), mirrored.upper(-bound))
	out.Equivalent = out.Ratio.Low > 1/(1+margin) && out.Ratio.High < 1+margin
	out.Different = out.Ratio.Low > 1+margin || out.Ratio.High < 1/(1+margin)
	return out
}

// logDifference is the mean of d, differences of logarithms, with its standard
// error.
func logDifference(d []float64, method string) student {
	s := student{est: Mean(d), df: float64(len(d) - 1), n: len(d), method: method}
	if len(d) > 1 && !constant(d) {
		s.se = StdDev(d) / math.Sqrt(float64(len(d)))
	}
	return s
}

// pairedLogs are the logs of the ratios; nil if the lengths differ or a value is
// not positive and finite.
func pairedLogs(num, den []float64) []float64 {
	if len(num) != len(den) {
		return nil
	}
	a, b := logs(num), logs(den)
	if a == nil || b == nil {
		return nil
	}
	for i := range a {
		a[i] -= b[i]
	}
	return a
}

// logs of a sample; nil if a value is not positive and finite.
func logs(x []float64) []float64 {
	out := make([]float64, len(x))
	for i, v := range x {
		if !(v > 0) || math.IsInf(v, 1) {
			return nil
		}
		out[i] = math.Log(v)
	}
	return out
}

// welch is the difference of two means of logs, with the degrees of freedom
// of Welch (1947) and Satterthwaite (1946).
func welch(num, den []float64) student {
	a, b := logDifference(logs(num), ""), logDifference(logs(den), "")
	s := student{est: a.est - b.est, n: min(a.n, b.n), method: MethodWelch}
	if s.n < 2 {
		return s
	}
	va, vb := a.se*a.se, b.se*b.se
	s.se, s.df = math.Sqrt(va+vb), satterthwaite(va, a.df, vb, b.df)
	return s
}

// satterthwaite is the degrees of freedom of a sum of two variances
// (Satterthwaite 1946).
func satterthwaite(va, dfa, vb, dfb float64) float64 {
	if va+vb == 0 {
		return dfa + dfb
	}
	return (va + vb) * (va + vb) / (va*va/dfa + vb*vb/dfb)
}
