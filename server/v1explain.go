package server

import (
	"context"

	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/server/api"
)

// explained says whose story is asked for.
type explained struct {
	subject pool.Subject
	id      string
}

func explainQuery(q *query) explained {
	return explained{pool.Subject(q.text("subject")), q.path("id")}
}

func (s *Server) v1Explain(ctx context.Context, q explained) (api.Story, error) {
	story, err := s.await(ctx).Explain(ctx, q.subject, q.id)
	return apiStory(story), err
}

func apiStory(s pool.Story) api.Story {
	return api.Story{
		Subject: string(s.Subject), ID: s.ID, Name: s.Name, Generation: s.Generation, State: s.State, Summary: s.Summary,
		Why: convert(s.Why, func(w pool.Why) api.Why {
			return api.Why{Code: w.Code, Pool: w.Pool, Message: w.Message, Position: w.Position, Until: at(w.Until)}
		}),
		Lines: convert(s.Lines, func(l pool.StoryLine) api.StoryLine { return api.StoryLine(l) }),
	}
}
