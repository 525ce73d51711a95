package stat

import "errors"

// Points are what was measured of one arm: Y[i] seconds or instructions at N[i] policies.
type Points struct {
	N, Y  []float64
	Block []int // the block (boot, seed) of each point; nil = every point is independent of the others
}

// CostOptions say how costs are fitted. The zero value is 95 %, alpha 0.05, a
// margin of 5 % and least squares without weights.
type CostOptions struct {
	Confidence float64 // 0 = 0.95
	Alpha      float64 // of Flat; 0 = 0.05
	Margin     float64 // of Flat; 0 = 0.05
	// Relative weighs each point by 1/y², y being the mean at its n: for errors
	// that grow with the value.
	Relative bool
}

// CostModel is one model of the cost of n policies.
type CostModel struct {
	Name   string  `json:"name"`
	T0     float64 `json:"t0"`
	Slope  float64 `json:"slope"`
	Knot   float64 `json:"knot"`
	Curve  float64 `json:"curve"`
	RSS    float64 `json:"rss"`
	AICc   float64 `json:"aicc"`
	Weight float64 `json:"weight"` // Akaike weight
	K      int     `json:"k"`
}

// CostFit is the cost of n policies: the models, and the linear one's parts.
type CostFit struct {
	Models []CostModel `json:"models"`
	Best   CostModel   `json:"best"`
	T0     Estimate    `json:"t0"`    // of the linear model: the path
	Slope  Estimate    `json:"slope"` // of the linear model: each policy
	Flat   Equivalence `json:"flat"`  // the linear model at the largest n over that at the smallest
}

// FitCost fits the cost models to the points of one arm.
func FitCost(p Points, opt CostOptions) (CostFit, error) {
	return CostFit{}, errors.New("fit cost: not there yet")
}

// TurnPoint is the number of policies from which on one arm is slower than another.
type TurnPoint struct {
	N    Estimate `json:"n"`    // within 0..NMax; at NMax it means NMax or more
	None bool     `json:"none"` // the lines do not cross below NMax; N.Low is then what cannot be excluded
	NMax float64  `json:"nmax"`
}

// Crossover finds the smallest n from which on a takes at least as long as b.
// With blocks, both arms are measured in the same ones.
func Crossover(a, b Points, nmax float64, opt CostOptions) (TurnPoint, error) {
	return TurnPoint{}, errors.New("find crossover: not there yet")
}
