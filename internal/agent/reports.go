package agent

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
	"github.com/vm-runner/drone-runner-aws/internal/agent/testreport"
)

// envTestSummary adds the numbers of tests to a step's outputs.
const envTestSummary = "HARNESS_CI_TEST_SUMMARY_OUTPUT_FF"

// reportPatience bounds how long a step's reports are looked for and read: its
// answer waits for them.
const reportPatience = time.Minute

// wantedReports are the globs of the reports a step leaves: those it names, or
// for tests that go to a service all that look like one.
func wantedReports(setup *agentapi.SetupRequest, req *agentapi.StartStepRequest) []string {
	if len(req.TestReport.JUnit.Paths) > 0 {
		return req.TestReport.JUnit.Paths
	}
	if req.Kind == agentapi.KindRunTestsV2 && req.WorkingDir != "" && testService(setup, req).URL != "" {
		return []string{"**/*.xml", "**/*.trx"}
	}
	return nil
}

// testService is that of the step, else that of the stage.
func testService(setup *agentapi.SetupRequest, req *agentapi.StartStepRequest) *agentapi.TIConfig {
	if req.TIConfig.URL != "" {
		return &req.TIConfig
	}
	return &setup.TIConfig
}

// collectReports reads the reports a step has left, shows a table of them and
// sends them to the test service, if there is one. What goes wrong is told in
// the output and fails nothing.
func (s *step) collectReports(ctx context.Context) []testreport.Case {
	globs := wantedReports(&s.setup, s.req)
	if len(globs) == 0 || ctx.Err() != nil {
		return nil
	}
	home := cmp.Or(s.req.Environment["HOME"], s.setup.Envs["HOME"], lookup(s.agent.opts.Env, "HOME"))
	look, cancel := context.WithTimeoutCause(ctx, reportPatience, fmt.Errorf("looking took longer than %s; name the reports' folder", reportPatience))
	defer cancel()
	files, err := testreport.Find(look, globs, hostPath(s.req.WorkingDir), home)
	if err != nil {
		s.warn(err)
		return nil
	}
	cases, problems := testreport.Read(look, files)
	for _, p := range problems {
		s.warn(p)
	}
	if len(cases) == 0 {
		if len(s.req.TestReport.JUnit.Paths) > 0 {
			s.warn(fmt.Errorf("%d test reports with no test in them were found for test_report.junit.paths %q", len(files), globs))
		}
		return nil
	}
	s.out.line(testreport.Table(cases))
	if service := testService(&s.setup, s.req); service.URL != "" {
		if err := s.uploadReports(ctx, service, cases); err != nil {
			s.warn(fmt.Errorf("test reports are not sent: %w", err))
		}
	}
	return cases
}

func (s *step) warn(err error) { s.remark(remarks{"warning: " + err.Error()}) }

func (s *step) uploadReports(ctx context.Context, service *agentapi.TIConfig, cases []testreport.Case) error {
	wanted := &s.stageLog.wanted
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	cert, key, err := wanted.clientPair()
	if err != nil {
		return err
	}
	if len(cert) > 0 {
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return fmt.Errorf("mtls_config: %w", err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	transport := &http.Transport{Proxy: wanted.proxies.choose, TLSClientConfig: conf, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	client := &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // the token stays here
	}
	return testreport.Upload(ctx, client, testreport.Target{
		URL: service.URL, Token: service.Token,
		Account: service.AccountID, Org: service.OrgID, Project: service.ProjectID, Pipeline: service.PipelineID,
		Build: service.BuildID, Stage: service.StageID, Step: cmp.Or(s.req.Name, s.req.ID),
		Repo: service.Repo, Sha: service.Sha, CommitLink: service.CommitLink,
	}, cases)
}

// addSummary adds the numbers of tests to the outputs, where that is wanted.
func (s *step) addSummary(res *agentapi.PollStepResponse, cases []testreport.Case) {
	if len(cases) == 0 || cmp.Or(s.req.Environment[envTestSummary], s.setup.Envs[envTestSummary]) != "true" {
		return
	}
	if res.Outputs == nil {
		res.Outputs = make(map[string]string)
	}
	sum := testreport.Summarize(cases)
	for _, o := range []struct {
		key   string
		value int
	}{
		{"total_tests", sum.Total},
		{"successful_tests", sum.Passed},
		{"failed_tests", sum.Failed},
		{"skipped_tests", sum.Skipped},
		{"duration_ms", int(sum.Duration.Milliseconds())},
	} {
		text := strconv.Itoa(o.value)
		res.Outputs[o.key] = text
		res.OutputV2 = append(res.OutputV2, agentapi.OutputV2{Key: o.key, Value: text, Type: agentapi.OutputString})
	}
}
