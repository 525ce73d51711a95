package export

import (
	"encoding/xml"
	"fmt"
	"io"
)

// Outcomes of a Case.
const (
	Passed  = ""
	Failure = "failure" // the subject did not work as it should
	Error   = "error"   // no verdict: the number cannot be used, or does not decide
	Skipped = "skipped" // it cannot run here
)

// Case is one test case of a JUnit report.
type Case struct {
	Class, Name string
	Outcome     string
	Message     string  // why it did not pass
	Output      string  // numbers, for readers
	Seconds     float64 // 0 = not known
}

type xmlSuite struct {
	XMLName  xml.Name  `xml:"testsuite"`
	Name     string    `xml:"name,attr"`
	Tests    int       `xml:"tests,attr"`
	Failures int       `xml:"failures,attr"`
	Errors   int       `xml:"errors,attr"`
	Skipped  int       `xml:"skipped,attr"`
	Cases    []xmlCase `xml:"testcase"`
}

type xmlCase struct {
	Class   string      `xml:"classname,attr"`
	Name    string      `xml:"name,attr"`
	Time    string      `xml:"time,attr,omitempty"`
	Failure *xmlOutcome `xml:"failure"`
	Error   *xmlOutcome `xml:"error"`
	Skipped *xmlOutcome `xml:"skipped"`
	Output  string      `xml:"system-out,omitempty"`
}

type xmlOutcome struct {
	Message string `xml:"message,attr"`
}

// JUnit writes cases as one JUnit test suite.
func JUnit(w io.Writer, name string, cases []Case) error {
	suite := xmlSuite{Name: name, Tests: len(cases)}
	for _, c := range cases {
		out, message := xmlCase{Class: c.Class, Name: c.Name, Output: c.Output}, &xmlOutcome{c.Message}
		if c.Seconds > 0 {
			out.Time = fmt.Sprintf("%.3f", c.Seconds)
		}
		switch c.Outcome {
		case Failure:
			out.Failure = message
			suite.Failures++
		case Error:
			out.Error = message
			suite.Errors++
		case Skipped:
			out.Skipped = message
			suite.Skipped++
		}
		suite.Cases = append(suite.Cases, out)
	}
	data, err := xml.MarshalIndent(suite, "", "  ")
	if err != nil {
		return fmt.Errorf("encode JUnit report: %w", err)
	}
	_, err = fmt.Fprintf(w, "%s%s\n", xml.Header, data)
	return err
}
