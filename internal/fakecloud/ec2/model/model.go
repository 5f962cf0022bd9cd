// Package model is the reduced model of the EC2 API: the operations the fake
// knows, the shapes of their requests and answers. It is data of the vendor,
// made by the command gen, and knows nothing of what the operations do.
package model

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"sync"
)

//go:generate go run ../gen -o model.json

//go:embed model.json
var text []byte

// Model is what the vendor says of its API.
type Model struct {
	// Notice is the notice of what the model was derived from.
	Notice string `json:"notice"`
	// Source is the file it was made from, with its SHA-256.
	Source string `json:"source"`
	// Namespace is that of the answers' XML, Version the one requests name.
	Namespace string        `json:"namespace"`
	Version   string        `json:"version"`
	Ops       map[string]Op `json:"ops"`
	// Requests and Answers are shapes by name. A shape may be in both, with
	// other names on the wire.
	Requests map[string]*Shape `json:"requests"`
	Answers  map[string]*Shape `json:"answers"`
}

// Op is an operation. Output is "" where it answers with no more than success.
type Op struct {
	Input  string `json:"input"`
	Output string `json:"output,omitempty"`
}

// Shape is a type of values: structure, list, string, boolean, integer, long,
// double, float, timestamp or blob.
type Shape struct {
	Type string `json:"type"`
	// Members are a structure's, by name; Required those that must be there.
	Members  []Member `json:"members,omitempty"`
	Required []string `json:"required,omitempty"`
	// Of is the shape of a list's elements, Item their name in answers.
	Of   string `json:"of,omitempty"`
	Item string `json:"item,omitempty"`
	// Enum are all values of a string, if not empty.
	Enum []string `json:"enum,omitempty"`
	// Min and Max bound a number, or the length of a string or list.
	Min *float64 `json:"min,omitempty"`
	Max *float64 `json:"max,omitempty"`
}

// Member is a member of a structure.
type Member struct {
	Name string `json:"name"`
	// Wire is its name in a request or answer.
	Wire  string `json:"wire"`
	Shape string `json:"shape"`
}

// Get is the model. It is shared: nobody may change it.
var Get = sync.OnceValue(func() *Model {
	m := &Model{}
	if err := json.Unmarshal(text, m); err != nil {
		panic(fmt.Sprintf("model.json, which is part of this program: %v", err))
	}
	return m
})
