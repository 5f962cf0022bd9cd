package sdktest_test

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/internal/fakecloud"
	fake "github.com/vm-runner/drone-runner-aws/internal/fakecloud/ec2"
	"github.com/vm-runner/drone-runner-aws/internal/testbubble"
)

// guarded asks for metadata that need a token.
func guarded(in *ec2.RunInstancesInput) {
	in.MetadataOptions = &types.InstanceMetadataOptionsRequest{
		HttpTokens: types.HttpTokensStateRequired, HttpPutResponseHopLimit: aws.Int32(1), InstanceMetadataTags: types.InstanceMetadataTagsStateEnabled,
	}
	in.UserData = aws.String(base64.StdEncoding.EncodeToString([]byte("#cloud-config\n")))
	in.TagSpecifications = []types.TagSpecification{{ResourceType: types.ResourceTypeInstance, Tags: tags("pool", "p")}}
	in.InstanceMarketOptions = &types.InstanceMarketOptionsRequest{MarketType: types.MarketTypeSpot}
}

func TestTheMetadataServiceAsTheSDKSeesIt(t *testing.T) {
	t.Parallel()
	bubble(t, fake.Options{}, func(t *testing.T, c *fake.Cloud, api *ec2.Client) {
		id := *run(t, api, guarded).InstanceId
		m := imds.New(imds.Options{HTTPClient: fakecloud.Client(c.IMDS(id, 1)), Endpoint: "http://169.254.169.254"})
		get := func(path string) string {
			out, err := m.GetMetadata(t.Context(), &imds.GetMetadataInput{Path: path})
			if err != nil {
				status, ok := errors.AsType[interface {
					error
					HTTPStatusCode() int
				}](err)
				if !ok {
					t.Fatal(err)
				}
				return http.StatusText(status.HTTPStatusCode())
			}
			defer out.Content.Close()
			text, err := io.ReadAll(out.Content)
			if err != nil {
				t.Fatal(err)
			}
			return string(text)
		}
		document, err := m.GetInstanceIdentityDocument(t.Context(), nil)
		if err != nil || document.InstanceID != id || document.Region != "us-east-1" {
			t.Errorf("identity %+v, %v", document, err)
		}
		before := map[string]string{}
		for _, path := range []string{"instance-id", "tags/instance/pool", "spot/instance-action", "events/maintenance/scheduled"} {
			before[path] = get(path)
		}
		want := map[string]string{"instance-id": id, "tags/instance/pool": "p", "spot/instance-action": "Not Found", "events/maintenance/scheduled": "[]"}
		if diff := cmp.Diff(want, before); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		begin := time.Date(2000, 1, 2, 0, 0, 0, 0, time.UTC)
		if err := errors.Join(c.Interrupt(id), c.Schedule(id, "system-reboot", begin, begin.Add(time.Hour))); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(2 * time.Minute).UTC().Format(time.RFC3339)
		if got, want := get("spot/instance-action"), `{"action":"terminate","time":"`+at+`"}`; got != want {
			t.Errorf("notice %s, want %s", got, want)
		}
		if got := get("events/maintenance/scheduled"); len(got) < 20 {
			t.Errorf("events %s", got)
		}
	})
}

func TestTheMetadataServiceRefuses(t *testing.T) {
	t.Parallel()
	bubble(t, fake.Options{}, func(t *testing.T, c *fake.Cloud, api *ec2.Client) {
		id := *run(t, api, guarded).InstanceId
		call := func(hops int, method, path string, header ...string) (int, string) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			r, err := http.NewRequestWithContext(ctx, method, "http://169.254.169.254/latest/"+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			for i := 0; i < len(header); i += 2 {
				r.Header.Set(header[i], header[i+1])
			}
			resp, err := fakecloud.Client(c.IMDS(id, hops)).Do(r)
			if err != nil {
				return 0, ""
			}
			defer resp.Body.Close()
			text, _ := io.ReadAll(resp.Body)
			return resp.StatusCode, string(text)
		}
		const ttl, token = "X-aws-ec2-metadata-token-ttl-seconds", "X-aws-ec2-metadata-token"
		_, good := call(1, http.MethodPut, "api/token", ttl, "60")
		for _, test := range []struct {
			name   string
			hops   int
			method string
			path   string
			header []string
			want   int
		}{
			{"without token", 1, http.MethodGet, "user-data", nil, http.StatusUnauthorized},
			{"with one", 1, http.MethodGet, "user-data", []string{token, good}, http.StatusOK},
			{"with one from elsewhere", 1, http.MethodGet, "user-data", []string{token, "x" + good}, http.StatusUnauthorized},
			{"a token for too long", 1, http.MethodPut, "api/token", []string{ttl, "21601"}, http.StatusBadRequest},
			{"a token for no time said", 1, http.MethodPut, "api/token", nil, http.StatusBadRequest},
			{"a token through a proxy", 1, http.MethodPut, "api/token", []string{ttl, "60", "X-Forwarded-For", "10.0.0.1"}, http.StatusForbidden},
			{"a token from a container", 2, http.MethodPut, "api/token", []string{ttl, "60"}, 0},
			{"another method", 1, http.MethodPost, "user-data", []string{token, good}, http.StatusMethodNotAllowed},
			{"what is not there", 1, http.MethodGet, "meta-data/coffee", []string{token, good}, http.StatusNotFound},
		} {
			if got, _ := call(test.hops, test.method, test.path, test.header...); got != test.want {
				t.Errorf("%s: %d, want %d", test.name, got, test.want)
			}
		}
		pass(time.Minute)
		if got, _ := call(1, http.MethodGet, "user-data", token, good); got != http.StatusUnauthorized {
			t.Errorf("with an old token: %d", got)
		}
	})
}

func TestImagesAreFoundByParameters(t *testing.T) {
	t.Parallel()
	testbubble.Run(t, func(t *testing.T) {
		const name = "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id"
		c := fake.New(fake.Options{Parameters: map[string]string{name: ubuntu}})
		api := ssm.New(ssm.Options{
			Region: "us-east-1", BaseEndpoint: aws.String("https://ssm.us-east-1.amazonaws.com"), HTTPClient: fakecloud.Client(c.SSM()), RetryMaxAttempts: 1,
			Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
				return aws.Credentials{AccessKeyID: "AKID", SecretAccessKey: "s"}, nil
			}),
		})
		out := must[*ssm.GetParameterOutput](t)(api.GetParameter(t.Context(), &ssm.GetParameterInput{Name: aws.String(name)}))
		if *out.Parameter.Value != ubuntu || out.Parameter.Version != 1 || c.Books.Calls()["ssm:GetParameter"] != 1 {
			t.Errorf("parameter %+v, calls %v", out.Parameter, c.Books.Calls())
		}
		_, err := api.GetParameter(t.Context(), &ssm.GetParameterInput{Name: aws.String("/none")})
		if code(t, err) != "ParameterNotFound" {
			t.Errorf("an unknown parameter: %v", err)
		}
		_, err = api.GetParameters(t.Context(), &ssm.GetParametersInput{Names: []string{name}})
		if code(t, err) != "UnknownOperationException" {
			t.Errorf("another operation: %v", err)
		}
		c.Faults.Add(fakecloud.Fault{Method: "ssm:GetParameter", Times: 1, Err: fake.ErrInternal()})
		if _, err = api.GetParameter(t.Context(), &ssm.GetParameterInput{Name: aws.String(name)}); code(t, err) != "InternalError" {
			t.Errorf("a fault: %v", err)
		}
	})
}
