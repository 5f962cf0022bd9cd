package sdktest_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"

	"github.com/vm-runner/drone-runner-aws/internal/fakecloud"
	fake "github.com/vm-runner/drone-runner-aws/internal/fakecloud/ec2"
	"github.com/vm-runner/drone-runner-aws/internal/testbubble"
)

const (
	ubuntu    = "ami-0a1b2c3d4e5f60001"
	ubuntuArm = "ami-0a1b2c3d4e5f60002"
)

// client is the real SDK's, in front of a handler, with attempts tries.
func client(h http.Handler, attempts int, with ...func(*ec2.Options)) *ec2.Client {
	o := ec2.Options{
		Region: "us-east-1", BaseEndpoint: aws.String("https://ec2.us-east-1.amazonaws.com"), HTTPClient: fakecloud.Client(h),
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "AKID", SecretAccessKey: "secret"}, nil
		}),
		RetryMaxAttempts: attempts,
	}
	return ec2.New(o, with...)
}

// bubble runs a test in fake time with a cloud and a client that tries once.
func bubble(t *testing.T, o fake.Options, test func(t *testing.T, c *fake.Cloud, api *ec2.Client)) {
	t.Helper()
	testbubble.Run(t, func(t *testing.T) {
		c := fake.New(o)
		test(t, c, client(c, 1))
	})
}

// code is EC2's code of an error, "" for none.
func code(t *testing.T, err error) string {
	t.Helper()
	if err == nil {
		return ""
	}
	api, ok := errors.AsType[smithy.APIError](err)
	if !ok {
		t.Fatalf("no error of the API: %v", err)
	}
	return api.ErrorCode()
}

func must[T any](t *testing.T) func(got T, err error) T {
	t.Helper()
	return func(got T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
}

func tags(pairs ...string) (all []types.Tag) {
	for i := 0; i < len(pairs); i += 2 {
		all = append(all, types.Tag{Key: &pairs[i], Value: &pairs[i+1]})
	}
	return all
}

// launch is a request for one machine.
func launch(with ...func(*ec2.RunInstancesInput)) *ec2.RunInstancesInput {
	in := &ec2.RunInstancesInput{ImageId: aws.String(ubuntu), InstanceType: "m5.large", MinCount: aws.Int32(1), MaxCount: aws.Int32(1)}
	for _, f := range with {
		f(in)
	}
	return in
}

// run launches one machine and waits until it runs.
func run(t *testing.T, api *ec2.Client, with ...func(*ec2.RunInstancesInput)) types.Instance {
	t.Helper()
	id := *must[*ec2.RunInstancesOutput](t)(api.RunInstances(t.Context(), launch(with...))).Instances[0].InstanceId
	return await(t, api, id, types.InstanceStateNameRunning)
}

// await waits in the bubble's time until a machine has a state.
func await(t *testing.T, api *ec2.Client, id string, want types.InstanceStateName) types.Instance {
	t.Helper()
	var last types.Instance
	for range 600 {
		out, err := api.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{InstanceIds: []string{id}})
		if err == nil {
			if last = out.Reservations[0].Instances[0]; last.State.Name == want {
				return last
			}
		} else if code(t, err) != "InvalidInstanceID.NotFound" {
			t.Fatal(err)
		}
		pass(time.Second)
	}
	t.Fatalf("%s is %v, not %s", id, last.State, want)
	return last
}

// listed are the ids of all machines in lists, over all pages.
func listed(t *testing.T, api *ec2.Client, filters ...types.Filter) (ids []string) {
	t.Helper()
	p := ec2.NewDescribeInstancesPaginator(api, &ec2.DescribeInstancesInput{Filters: filters})
	for p.HasMorePages() {
		for _, r := range must[*ec2.DescribeInstancesOutput](t)(p.NextPage(t.Context())).Reservations {
			for _, i := range r.Instances {
				ids = append(ids, *i.InstanceId)
			}
		}
	}
	return ids
}

func filter(name string, values ...string) types.Filter {
	return types.Filter{Name: &name, Values: values}
}

// living are the books' living things as "kind kind …".
func living(c *fake.Cloud) string {
	c.Settle()
	var kinds []string
	for _, thing := range c.Books.Living() {
		kinds = append(kinds, thing.Kind)
	}
	return strings.Join(kinds, " ")
}

func terminate(t *testing.T, api *ec2.Client, ids ...string) {
	t.Helper()
	must[*ec2.TerminateInstancesOutput](t)(api.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: ids}))
}

// pass lets so much of the bubble's time go by. Nothing waits for it.
func pass(d time.Duration) { <-time.After(d) }
