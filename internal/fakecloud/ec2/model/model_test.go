package model_test

import (
	"testing"

	"github.com/vm-runner/drone-runner-aws/internal/fakecloud/ec2/model"
)

// The reduced model is whole: whatever a shape names is in it.
func TestWhatTheModelNamesIsInIt(t *testing.T) {
	t.Parallel()
	m := model.Get()
	if len(m.Requests) == 0 || len(m.Answers) == 0 {
		t.Fatalf("%d shapes of requests, %d of answers", len(m.Requests), len(m.Answers))
	}
	for side, shapes := range map[string]map[string]*model.Shape{"request": m.Requests, "answer": m.Answers} {
		for name, shape := range shapes {
			members := map[string]bool{}
			for _, member := range shape.Members {
				members[member.Name] = true
				if shapes[member.Shape] == nil || member.Wire == "" {
					t.Errorf("%s %s.%s is a %q, on the wire %q", side, name, member.Name, member.Shape, member.Wire)
				}
			}
			for _, required := range shape.Required {
				if !members[required] {
					t.Errorf("%s %s needs %q, which it does not have", side, name, required)
				}
			}
			if shape.Type == "list" && shapes[shape.Of] == nil {
				t.Errorf("%s %s is a list of %q", side, name, shape.Of)
			}
		}
	}
}
