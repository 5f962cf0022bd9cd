package testreport

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Target is where reports go: a test service and the step they are of.
type Target struct {
	URL, Token                                          string
	Account, Org, Project, Pipeline, Build, Stage, Step string
	Repo, Sha, CommitLink                               string
}

// The limits of an upload.
const (
	uploadTry   = 30 * time.Second
	uploadLimit = time.Minute
	uploadPause = time.Second // before the second try; later ones are longer
)

// Upload sends cases, again while the service does not answer or says that it
// is in trouble, for a minute at most.
func Upload(ctx context.Context, client *http.Client, to Target, cases []Case) error {
	body, err := json.Marshal(cases)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, uploadLimit, fmt.Errorf("not taken within %s", uploadLimit))
	defer cancel()
	for pause := uploadPause; ; pause += pause / 2 {
		again, err := to.send(ctx, client, body)
		if err == nil {
			return nil
		}
		if !again {
			return fmt.Errorf("test service: %w", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("test service: %w (%w)", err, context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}

// send tries once; again says whether another try may help.
func (to Target) send(ctx context.Context, client *http.Client, body []byte) (again bool, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, uploadTry, fmt.Errorf("no answer in %s", uploadTry))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to.address(), bytes.NewReader(body))
	if err != nil {
		return false, withoutURL(err)
	}
	req.Header.Set("X-Harness-Token", to.Token)
	req.Header.Set("Content-Type", "application/json")
	res, err := client.Do(req)
	if err != nil {
		return true, withoutURL(err)
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(res.Body, 200)) // what there is of it
	if res.StatusCode >= http.StatusOK && res.StatusCode < http.StatusMultipleChoices {
		return false, nil
	}
	return res.StatusCode >= http.StatusInternalServerError, fmt.Errorf("answered %d: %s", res.StatusCode, strings.Join(strings.Fields(string(text)), " "))
}

func (to Target) address() string {
	var b strings.Builder
	b.WriteString(strings.TrimSuffix(to.URL, "/") + "/reports/write")
	for i, p := range [][2]string{
		{"accountId", to.Account},
		{"orgId", to.Org},
		{"projectId", to.Project},
		{"pipelineId", to.Pipeline},
		{"buildId", to.Build},
		{"stageId", to.Stage},
		{"stepId", to.Step},
		{"report", "junit"},
		{"repo", to.Repo},
		{"sha", to.Sha},
		{"commitLink", to.CommitLink},
		{"parentUniqueId", ""},
	} {
		b.WriteByte("?&"[min(i, 1)])
		b.WriteString(p[0] + "=" + url.QueryEscape(p[1]))
	}
	return b.String()
}

// withoutURL drops the address, whose query is long, from an error.
func withoutURL(err error) error {
	if known, ok := errors.AsType[*url.Error](err); ok {
		return known.Err
	}
	return err
}
