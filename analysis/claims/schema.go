package claims

import (
	"encoding/json"
	"fmt"
)

// node is a part of a JSON Schema, draft 7.
type node map[string]any

// JSONSchema is a JSON Schema of claims files, for editors. It says what Parse checks.
func JSONSchema() ([]byte, error) {
	text := func(doc string) node { return node{"type": "string", "minLength": 1, "description": doc} }
	selector := func(doc string) node {
		return node{"type": "object", "minProperties": 1, "additionalProperties": node{"type": "string"}, "description": doc}
	}
	whole := func(doc string) node { return node{"type": "integer", "minimum": 0, "description": doc} }
	hypotheses := []string{Better, Same, Flat, Hurts, NoPenaltyUntil}
	claim := node{
		"type": "object", "additionalProperties": false,
		"required": []string{"id", "sentence", "source", "hypothesis", "scenario", "workload", "metrics", "a", "margin", "reason"},
		"properties": node{
			"id":         text("names the claim; each once"),
			"sentence":   text("what is claimed, in words"),
			"source":     text("section and figure of the study, or hookbed"),
			"hypothesis": node{"enum": hypotheses, "description": "what is tested: better and same compare two arms; flat, hurts and no-penalty-until an arm with itself without policies"},
			"scenario":   text("localhost or multi-host"),
			"workload":   text("the measured program"),
			"metrics":    node{"type": "array", "minItems": 1, "items": node{"type": "string"}, "description": "alternatives; the first that was measured is used"},
			"a":          selector("factors that select the arm"),
			"b":          selector("factors that select the arm it is compared with"),
			"margin":     node{"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 10, "description": "relative; 0.05 is 5 %"},
			"reason":     text("why this margin"),
			"at_least":   whole("better and same: the smallest number of policies to compare; hurts: what the largest must be"),
			"until":      whole("no-penalty-until: the number of policies from which on there is a penalty"),
		},
		"allOf": []node{
			when([]string{Better, Same}, node{"required": []string{"b"}}, node{"properties": node{"b": false}}),
			when([]string{NoPenaltyUntil}, node{"required": []string{"until"}}, node{"properties": node{"until": node{"const": 0}}}),
			when([]string{Flat, NoPenaltyUntil}, node{"properties": node{"at_least": node{"const": 0}}}, node{}),
		},
	}
	root := node{
		"$schema": "http://json-schema.org/draft-07/schema#", "title": "hookbed claims",
		"type": "object", "additionalProperties": false, "required": []string{"schema"},
		"properties": node{
			"schema": node{"const": Schema, "description": "version of the file's form"},
			"claim":  node{"type": "array", "items": claim, "description": "a sentence with its hypothesis and the cells that it is about"},
		},
	}
	data, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write the schema of claims: %w", err)
	}
	return append(data, '\n'), nil
}

// when is a condition on the hypothesis.
func when(hypotheses []string, then, otherwise node) node {
	return node{"if": node{"properties": node{"hypothesis": node{"enum": hypotheses}}}, "then": then, "else": otherwise}
}
