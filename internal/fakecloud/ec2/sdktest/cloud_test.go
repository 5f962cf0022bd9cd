package sdktest_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/internal/fakecloud"
	fake "github.com/vm-runner/drone-runner-aws/internal/fakecloud/ec2"
	"github.com/vm-runner/drone-runner-aws/internal/testbubble"
)

func TestListsArePaged(t *testing.T) {
	t.Parallel()
	for _, sparse := range []bool{false, true} {
		t.Run(fmt.Sprintf("sparse %t", sparse), func(t *testing.T) {
			t.Parallel()
			bubble(t, fake.Options{Sparse: sparse}, func(t *testing.T, _ *fake.Cloud, api *ec2.Client) {
				var want []string
				for n := range 4 {
					in := launch(func(in *ec2.RunInstancesInput) {
						in.MinCount, in.MaxCount = aws.Int32(3), aws.Int32(3)
						if n == 3 {
							in.TagSpecifications = []types.TagSpecification{{ResourceType: types.ResourceTypeInstance, Tags: tags("last", "yes")}}
						}
					})
					for _, i := range must[*ec2.RunInstancesOutput](t)(api.RunInstances(t.Context(), in)).Instances {
						want = append(want, *i.InstanceId)
					}
				}
				pass(3 * time.Second)
				if diff := cmp.Diff(want, listed(t, api)); diff != "" {
					t.Errorf("all pages (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(want[9:], listed(t, api, filter("tag:last", "y*"))); diff != "" {
					t.Errorf("filtered (-want +got):\n%s", diff)
				}
				in := &ec2.DescribeInstancesInput{MaxResults: aws.Int32(1000), Filters: []types.Filter{filter("tag:last", "yes")}}
				first := must[*ec2.DescribeInstancesOutput](t)(api.DescribeInstances(t.Context(), in))
				if empty := len(first.Reservations) == 0; empty != sparse || empty != (first.NextToken != nil) {
					t.Errorf("first page has %d, next %v", len(first.Reservations), first.NextToken)
				}
				first = must[*ec2.DescribeInstancesOutput](t)(api.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{}))
				if n := len(first.Reservations); n != 2 || first.NextToken == nil {
					t.Fatalf("an unfiltered first page has %d launches, next %v", n, first.NextToken)
				}
				// What ends meanwhile takes nothing from the other pages.
				terminate(t, api, want[:5]...)
				pass(2 * time.Hour)
				second := must[*ec2.DescribeInstancesOutput](t)(api.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{NextToken: first.NextToken}))
				if got := *second.Reservations[0].Instances[0].InstanceId; got != want[5] {
					t.Errorf("second page begins with %s, want %s", got, want[5])
				}
				_, err := api.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{NextToken: first.NextToken, Filters: in.Filters})
				if code(t, err) != "InvalidNextToken" {
					t.Errorf("a token with other filters: %v", err)
				}
				for wantCode, in := range map[string]*ec2.DescribeInstancesInput{
					"InvalidNextToken":            {NextToken: aws.String("abc")},
					"InvalidParameterValue":       {MaxResults: aws.Int32(4)},
					"InvalidParameterCombination": {MaxResults: aws.Int32(5), InstanceIds: want[6:7]},
				} {
					if _, err := api.DescribeInstances(t.Context(), in); code(t, err) != wantCode {
						t.Errorf("%v, want %s", err, wantCode)
					}
				}
				if out := must[*ec2.DescribeInstancesOutput](t)(api.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{InstanceIds: want[5:]})); out.NextToken != nil {
					t.Error("what is asked for by id is paged")
				}
			})
		})
	}
}

func TestThrottledCallsAreTriedAgainByTheSDK(t *testing.T) {
	t.Parallel()
	testbubble.Run(t, func(t *testing.T) {
		c := fake.New(fake.Options{})
		once := client(c, 1)
		for range 5 {
			must[*ec2.RunInstancesOutput](t)(once.RunInstances(t.Context(), launch()))
		}
		_, err := once.RunInstances(t.Context(), launch())
		if code(t, err) != "RequestLimitExceeded" {
			t.Fatalf("the sixth at once: %v", err)
		}
		status, ok := errors.AsType[interface {
			error
			HTTPStatusCode() int
		}](err)
		if !ok || status.HTTPStatusCode() != http.StatusServiceUnavailable {
			t.Errorf("status of %v", err)
		}
		// The SDK's own back-off, in fake time, and the same in every run.
		api := client(c, 10, func(o *ec2.Options) {
			o.Retryer = retry.NewStandard(func(o *retry.StandardOptions) { o.MaxAttempts = 10 })
		})
		begun, before := time.Now(), c.Books.Calls()["RunInstances"]
		must[*ec2.RunInstancesOutput](t)(api.RunInstances(t.Context(), launch()))
		if took := time.Since(begun); took == 0 || took > time.Minute || c.Books.Calls()["RunInstances"] < before+2 {
			t.Errorf("took %s and %d calls", took, c.Books.Calls()["RunInstances"]-before)
		}
	})
}

func TestMachinesHaveABucketToo(t *testing.T) {
	t.Parallel()
	o := fake.Options{Resources: map[string]fake.Rate{"RunInstances": {Size: 10, PerSecond: 1}}}
	bubble(t, o, func(t *testing.T, c *fake.Cloud, api *ec2.Client) {
		ten := func(in *ec2.RunInstancesInput) { in.MinCount, in.MaxCount = aws.Int32(10), aws.Int32(10) }
		must[*ec2.RunInstancesOutput](t)(api.RunInstances(t.Context(), launch(ten)))
		pass(9 * time.Second)
		_, err := api.RunInstances(t.Context(), launch(ten))
		if code(t, err) != "RequestLimitExceeded" || len(c.Books.Ever()) != 30 {
			t.Errorf("the eleventh: %v, made %d", err, len(c.Books.Ever()))
		}
		pass(time.Second)
		must[*ec2.RunInstancesOutput](t)(api.RunInstances(t.Context(), launch(ten)))
	})
}

func TestWhoMayCall(t *testing.T) {
	t.Parallel()
	o := fake.Options{Keys: []fake.Key{
		{ID: "AKID"},
		{ID: "SESSION", Token: "token", May: func(action string) bool { return action != "CreateTags" }},
	}}
	with := func(id, token string) func(*ec2.Options) {
		return func(o *ec2.Options) {
			o.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
				return aws.Credentials{AccessKeyID: id, SecretAccessKey: "s", SessionToken: token}, nil
			})
		}
	}
	testbubble.Run(t, func(t *testing.T) {
		c := fake.New(o)
		c.GrantUntil("SESSION", time.Now().Add(time.Hour))
		regions := func(with ...func(*ec2.Options)) string {
			_, err := client(c, 1, with...).DescribeRegions(t.Context(), &ec2.DescribeRegionsInput{})
			return code(t, err)
		}
		for _, test := range []struct {
			name, want string
			with       func(*ec2.Options)
		}{
			{"a key", "", with("AKID", "")},
			{"an unknown key", "AuthFailure", with("OTHER", "")},
			{"a session without its token", "AuthFailure", with("SESSION", "")},
			{"a session", "", with("SESSION", "token")},
			{"another region", "SignatureDoesNotMatch", func(o *ec2.Options) { o.Region = "eu-west-1" }},
		} {
			if got := regions(test.with); got != test.want {
				t.Errorf("%s: %q, want %q", test.name, got, test.want)
			}
		}
		session := client(c, 1, with("SESSION", "token"))
		run(t, session)
		_, err := session.RunInstances(t.Context(), launch(func(in *ec2.RunInstancesInput) {
			in.TagSpecifications = []types.TagSpecification{{ResourceType: types.ResourceTypeInstance, Tags: tags("a", "b")}}
		}))
		if code(t, err) != "UnauthorizedOperation" {
			t.Errorf("tags at creation without the right: %v", err)
		}
		pass(time.Hour)
		if got := regions(with("SESSION", "token")); got != "RequestExpired" {
			t.Errorf("an expired token: %q", got)
		}
	})
}

func TestRequestsOfNoShapeAreRefused(t *testing.T) {
	t.Parallel()
	const (
		form   = "Action=DescribeRegions&Version=2016-11-15"
		scope  = "AWS4-HMAC-SHA256 Credential=AKID/20000101/us-east-1/ec2/aws4_request, SignedHeaders=host;x-amz-date, Signature="
		broken = "AWS4-HMAC-SHA256 Credential=AKID/20000101/us-east-1/ec2, SignedHeaders=host, Signature="
	)
	signature := strings.Repeat("0a", 32)
	for _, test := range []struct {
		name, auth, date, want string
	}{
		{"well signed", scope + signature, "20000101T000000Z", "DescribeRegionsResponse"},
		{"not signed", "", "", "MissingAuthenticationToken"},
		{"no scope", broken + signature, "20000101T000000Z", "IncompleteSignature"},
		{"half a signature", scope + signature[1:], "20000101T000000Z", "IncompleteSignature"},
		{"no date", scope + signature, "", "IncompleteSignature"},
		{"the date of another day", scope + signature, "20000102T000000Z", "IncompleteSignature"},
		{"a quarter of an hour later", scope + signature, "20000101T001501Z", "RequestExpired"},
		{"for another service", strings.Replace(scope, "/ec2/", "/ssm/", 1) + signature, "20000101T000000Z", "SignatureDoesNotMatch"},
		{"without the date signed", strings.Replace(scope, ";x-amz-date", "", 1) + signature, "20000101T000000Z", "SignatureDoesNotMatch"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			testbubble.Run(t, func(t *testing.T) {
				r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://ec2.example/", strings.NewReader(form))
				if err != nil {
					t.Fatal(err)
				}
				r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
				r.Header.Set("Authorization", test.auth)
				r.Header.Set("X-Amz-Date", test.date)
				resp, err := fakecloud.Client(fake.New(fake.Options{})).Do(r)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				var body strings.Builder
				if err := resp.Write(&body); err != nil || !strings.Contains(body.String(), "<"+test.want) && !strings.Contains(body.String(), "<Code>"+test.want+"</Code>") {
					t.Errorf("%v: %s", err, body.String())
				}
				if test.want != "DescribeRegionsResponse" && !strings.Contains(body.String(), "<RequestID>") {
					t.Error("no request id")
				}
			})
		})
	}
}

func TestFaultsAreInTheCloudsShape(t *testing.T) {
	t.Parallel()
	bubble(t, fake.Options{Unlimited: true}, func(t *testing.T, c *fake.Cloud, api *ec2.Client) {
		for want, err := range map[string]error{
			"RequestLimitExceeded": fake.ErrThrottled(), "InsufficientInstanceCapacity": fake.ErrCapacity("us-east-1a", "m5.large"),
			"InstanceLimitExceeded": fake.ErrInstanceLimit(), "VcpuLimitExceeded": fake.ErrVCPULimit(8), "Unsupported": fake.ErrUnsupported("z", "t"),
			"InternalError": fake.ErrInternal(), "Unavailable": fake.ErrUnavailable(), "RequestExpired": fake.ErrExpired(),
			"AuthFailure": fake.ErrAuth(), "UnauthorizedOperation": fake.ErrUnauthorized("RunInstances"),
		} {
			c.Faults.Add(fakecloud.Fault{Method: "RunInstances", Times: 1, Err: err})
			if _, err := api.RunInstances(t.Context(), launch()); code(t, err) != want {
				t.Errorf("%v, want %s", err, want)
			}
		}
		c.Faults.Add(fakecloud.Fault{Method: "RunInstances", Times: 1})
		if _, err := api.RunInstances(t.Context(), launch()); code(t, err) != "InternalError" {
			t.Errorf("a fault that says nothing: %v", err)
		}
		c.Faults.Add(fakecloud.Fault{
			Times: 1, Err: fake.ErrInternal(),
			Match: func(call fakecloud.Call) bool {
				return call.Name == "me" && call.Zone == "us-east-1b" && call.Type == "m5.large"
			},
		})
		named := func(in *ec2.RunInstancesInput) {
			in.Placement = &types.Placement{AvailabilityZone: aws.String("us-east-1b")}
			in.TagSpecifications = []types.TagSpecification{{ResourceType: types.ResourceTypeInstance, Tags: tags("Name", "me")}}
			in.ClientToken = aws.String("me")
		}
		if _, err := api.RunInstances(t.Context(), launch(named)); code(t, err) != "InternalError" {
			t.Errorf("a fault for one name, zone and type: %v", err)
		}
		// The answer is lost, and the same token finds what was made.
		c.Faults.Add(fakecloud.Fault{Method: "RunInstances", Times: 1, Effect: fakecloud.Lose})
		if _, err := api.RunInstances(t.Context(), launch(named)); err == nil {
			t.Error("the answer was not lost")
		}
		must[*ec2.RunInstancesOutput](t)(api.RunInstances(t.Context(), launch(named)))
		if n := len(c.Books.Ever()); n != 3 {
			t.Errorf("made %d things", n)
		}
	})
}

func TestListsMayMissSomething(t *testing.T) {
	t.Parallel()
	bubble(t, fake.Options{}, func(t *testing.T, c *fake.Cloud, api *ec2.Client) {
		id := *run(t, api).InstanceId
		if err := c.Hide(id, time.Minute); err != nil {
			t.Fatal(err)
		}
		if ids := listed(t, api); len(ids) != 0 {
			t.Errorf("listed: %v", ids)
		}
		pass(time.Minute)
		if ids := listed(t, api); len(ids) != 1 {
			t.Errorf("a minute later: %v", ids)
		}
	})
}

// TestEqualSeedsGiveEqualClouds: how a cloud is does not depend on the run.
func TestEqualSeedsGiveEqualClouds(t *testing.T) {
	t.Parallel()
	story := func(seed uint64) (ids []string, took time.Duration) {
		testbubble.Run(t, func(t *testing.T) {
			api := client(fake.New(fake.Options{Seed: seed}), 1)
			begun := time.Now()
			for n := range 3 {
				i := run(t, api, func(in *ec2.RunInstancesInput) { in.ClientToken = aws.String(fmt.Sprint(n)) })
				ids = append(ids, *i.InstanceId, *i.Placement.AvailabilityZone)
			}
			took = time.Since(begun)
		})
		return ids, took
	}
	a, tookA := story(1)
	b, tookB := story(1)
	other, _ := story(2)
	if !slices.Equal(a, b) || tookA != tookB || slices.Equal(a, other) {
		t.Errorf("%v in %s, %v in %s, other seed %v", a, tookA, b, tookB, other)
	}
}

func TestManyCallAtOnce(t *testing.T) {
	t.Parallel()
	var c *fake.Cloud
	o := fake.Options{Unlimited: true, Boots: func(m fake.Machine) { _ = c.Console(m.ID, "booted") }}
	testbubble.Run(t, func(t *testing.T) {
		c = fake.New(o)
		api := client(c, 1)
		var wg sync.WaitGroup
		for n := range 20 {
			wg.Go(func() {
				token := func(in *ec2.RunInstancesInput) { in.ClientToken = aws.String(fmt.Sprint(n / 2)) }
				out, err := api.RunInstances(t.Context(), launch(token))
				if err != nil {
					t.Error(err)
					return
				}
				await(t, api, *out.Instances[0].InstanceId, types.InstanceStateNameRunning)
			})
		}
		wg.Wait()
		terminate(t, api, listed(t, api)...)
		pass(time.Minute)
		if left, made := living(c), len(c.Books.Ever()); left != "" || made != 30 {
			t.Errorf("made %d, left: %s", made, left)
		}
	})
}
