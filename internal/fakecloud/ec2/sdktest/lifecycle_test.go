package sdktest_test

import (
	"encoding/base64"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/google/go-cmp/cmp"

	fake "github.com/vm-runner/drone-runner-aws/internal/fakecloud/ec2"
)

func TestAMachineLivesAndLeavesNothing(t *testing.T) {
	t.Parallel()
	var boots, halts, gone []fake.Machine
	o := fake.Options{
		Boots: func(m fake.Machine) { boots = append(boots, m) },
		Halts: func(m fake.Machine) { halts = append(halts, m) },
		Gone:  func(m fake.Machine) { gone = append(gone, m) },
	}
	bubble(t, o, func(t *testing.T, c *fake.Cloud, api *ec2.Client) {
		begun := time.Now()
		spec := func(kind types.ResourceType) types.TagSpecification {
			return types.TagSpecification{ResourceType: kind, Tags: tags("pool", "p", "kind", string(kind))}
		}
		out := must[*ec2.RunInstancesOutput](t)(api.RunInstances(t.Context(), launch(func(in *ec2.RunInstancesInput) {
			in.UserData = aws.String(base64.StdEncoding.EncodeToString([]byte("#!/bin/sh\n")))
			in.TagSpecifications = []types.TagSpecification{
				spec(types.ResourceTypeInstance), spec(types.ResourceTypeVolume), spec(types.ResourceTypeNetworkInterface),
			}
		})))
		i := out.Instances[0]
		if i.State.Name != types.InstanceStateNamePending || i.PublicIpAddress != nil || *i.PrivateIpAddress == "" || *out.ReservationId == "" {
			t.Errorf("just launched: %+v", i)
		}
		i = await(t, api, *i.InstanceId, types.InstanceStateNameRunning)
		if took := time.Since(begun); took < 3*time.Second || took > 21*time.Second {
			t.Errorf("running after %s", took)
		}
		if i.PublicIpAddress == nil || len(i.BlockDeviceMappings) != 1 || *i.BlockDeviceMappings[0].DeviceName != "/dev/sda1" {
			t.Errorf("running: %+v", i)
		}
		if len(boots) != 1 || string(boots[0].UserData) != "#!/bin/sh\n" || boots[0].PublicIP != *i.PublicIpAddress || boots[0].Tags["pool"] != "p" {
			t.Errorf("told of boots: %+v", boots)
		}
		for _, thing := range c.Books.Living() {
			if thing.Tags["kind"] != thing.Kind || thing.Tags["pool"] != "p" {
				t.Errorf("%s has tags %v", thing.Kind, thing.Tags)
			}
		}
		terminate(t, api, *i.InstanceId)
		terminate(t, api, *i.InstanceId) // once more is no error
		i = await(t, api, *i.InstanceId, types.InstanceStateNameTerminated)
		if *i.StateReason.Code != "Client.UserInitiatedShutdown" || i.PrivateIpAddress != nil {
			t.Errorf("terminated: %+v", i)
		}
		if len(halts) != 1 || len(gone) != 1 || living(c) != "" {
			t.Errorf("%d halts and %d ends, and there is yet: %s", len(halts), len(gone), living(c))
		}
		pass(61 * time.Minute)
		_, err := api.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{InstanceIds: []string{*i.InstanceId}})
		if code(t, err) != "InvalidInstanceID.NotFound" || len(listed(t, api)) != 0 {
			t.Errorf("an hour later: %v", err)
		}
		if n := len(c.Books.Ever()); n != 3 {
			t.Errorf("the books have %d things", n)
		}
	})
}

func TestWhatIsNewIsNotSeenForAWhile(t *testing.T) {
	t.Parallel()
	o := fake.Options{Times: fake.Times{Seen: fake.Range{Least: 3 * time.Second, Most: 3 * time.Second}}}
	bubble(t, o, func(t *testing.T, _ *fake.Cloud, api *ec2.Client) {
		id := *must[*ec2.RunInstancesOutput](t)(api.RunInstances(t.Context(), launch())).Instances[0].InstanceId
		_, err := api.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{id}})
		if code(t, err) != "InvalidInstanceID.NotFound" {
			t.Errorf("terminate: %v", err)
		}
		_, err = api.CreateTags(t.Context(), &ec2.CreateTagsInput{Resources: []string{id}, Tags: tags("a", "b")})
		if code(t, err) != "InvalidInstanceID.NotFound" || len(listed(t, api)) != 0 {
			t.Errorf("tag: %v, listed %v", err, listed(t, api))
		}
		pass(3 * time.Second)
		if diff := cmp.Diff([]string{id}, listed(t, api)); diff != "" {
			t.Errorf("after a while (-want +got):\n%s", diff)
		}
	})
}

func TestStopAndStart(t *testing.T) {
	t.Parallel()
	var boots []fake.Machine
	bubble(t, fake.Options{Boots: func(m fake.Machine) { boots = append(boots, m) }}, func(t *testing.T, c *fake.Cloud, api *ec2.Client) {
		first := run(t, api)
		id := *first.InstanceId
		ids := []string{id}
		must[*ec2.StopInstancesOutput](t)(api.StopInstances(t.Context(), &ec2.StopInstancesInput{InstanceIds: ids}))
		_, err := api.StartInstances(t.Context(), &ec2.StartInstancesInput{InstanceIds: ids})
		if code(t, err) != "IncorrectInstanceState" {
			t.Errorf("start of a stopping machine: %v", err)
		}
		i := await(t, api, id, types.InstanceStateNameStopped)
		if i.PublicIpAddress != nil || *i.PrivateIpAddress != *first.PrivateIpAddress {
			t.Errorf("stopped: %+v", i)
		}
		c.Capacity(*i.Placement.AvailabilityZone, "m5.large", 0)
		_, err = api.StartInstances(t.Context(), &ec2.StartInstancesInput{InstanceIds: ids})
		if code(t, err) != "InsufficientInstanceCapacity" {
			t.Errorf("start without room: %v", err)
		}
		c.Capacity(*i.Placement.AvailabilityZone, "m5.large", 1)
		c.Quota(0, 1)
		_, err = api.StartInstances(t.Context(), &ec2.StartInstancesInput{InstanceIds: ids})
		if code(t, err) != "VcpuLimitExceeded" {
			t.Errorf("start past the quota: %v", err)
		}
		c.Quota(0, 0)
		must[*ec2.StartInstancesOutput](t)(api.StartInstances(t.Context(), &ec2.StartInstancesInput{InstanceIds: ids}))
		i = await(t, api, id, types.InstanceStateNameRunning)
		if *i.PublicIpAddress == *first.PublicIpAddress || *i.PrivateIpAddress != *first.PrivateIpAddress {
			t.Errorf("addresses %s %s, before %s %s", *i.PublicIpAddress, *i.PrivateIpAddress, *first.PublicIpAddress, *first.PrivateIpAddress)
		}
		must[*ec2.RebootInstancesOutput](t)(api.RebootInstances(t.Context(), &ec2.RebootInstancesInput{InstanceIds: ids}))
		if len(boots) != 3 || boots[2].Boot != 3 {
			t.Errorf("boots: %+v", boots)
		}
	})
}

// hibernating asks for a machine that can hibernate.
func hibernating(in *ec2.RunInstancesInput) {
	in.HibernationOptions = &types.HibernationOptionsRequest{Configured: aws.Bool(true)}
	in.BlockDeviceMappings = []types.BlockDeviceMapping{{
		DeviceName: aws.String("/dev/sda1"), Ebs: &types.EbsBlockDevice{VolumeSize: aws.Int32(20), VolumeType: "gp3", Encrypted: aws.Bool(true)},
	}}
}

func TestHibernation(t *testing.T) {
	t.Parallel()
	var boots, halts []fake.Machine
	o := fake.Options{Boots: func(m fake.Machine) { boots = append(boots, m) }, Halts: func(m fake.Machine) { halts = append(halts, m) }}
	bubble(t, o, func(t *testing.T, c *fake.Cloud, api *ec2.Client) {
		id := *run(t, api, hibernating).InstanceId
		stop := &ec2.StopInstancesInput{InstanceIds: []string{id}, Hibernate: aws.Bool(true)}
		start := &ec2.StartInstancesInput{InstanceIds: []string{id}}
		_, err := api.StopInstances(t.Context(), stop)
		if code(t, err) != "UnsupportedOperation" {
			t.Errorf("just booted: %v", err)
		}
		for _, night := range []struct {
			name    string
			fail    int
			days    int
			reason  string
			resumed bool
		}{
			{"memory is kept", 0, 59, "Client.UserInitiatedHibernate", true},
			{"it failed, and was a shutdown", 1, 1, "Client.UserInitiatedShutdown", false},
			{"it was longer than sixty days", 0, 61, "Client.UserInitiatedHibernate", false},
		} {
			pass(3 * time.Minute)
			c.FailHibernations(night.fail)
			must[*ec2.StopInstancesOutput](t)(api.StopInstances(t.Context(), stop))
			i := await(t, api, id, types.InstanceStateNameStopped)
			pass(time.Duration(night.days) * 24 * time.Hour)
			must[*ec2.StartInstancesOutput](t)(api.StartInstances(t.Context(), start))
			await(t, api, id, types.InstanceStateNameRunning)
			if last := boots[len(boots)-1]; last.Resumed != night.resumed || *i.StateReason.Code != night.reason {
				t.Errorf("%s: resumed %t, reason %s", night.name, last.Resumed, *i.StateReason.Code)
			}
			if asleep := halts[len(halts)-1].Asleep; asleep != (night.fail == 0) {
				t.Errorf("%s: said to sleep: %t", night.name, asleep)
			}
		}
	})
}

func TestSpotMachines(t *testing.T) {
	t.Parallel()
	spot := func(kind types.SpotInstanceType) func(*ec2.RunInstancesInput) {
		return func(in *ec2.RunInstancesInput) {
			in.InstanceMarketOptions = &types.InstanceMarketOptionsRequest{
				MarketType: types.MarketTypeSpot, SpotOptions: &types.SpotMarketOptions{SpotInstanceType: kind},
			}
			in.TagSpecifications = []types.TagSpecification{
				{ResourceType: types.ResourceTypeInstance, Tags: tags("ours", "1")},
				{ResourceType: types.ResourceTypeSpotInstancesRequest, Tags: tags("ours", "1")},
			}
		}
	}
	t.Run("a one-time request ends with its machine, two minutes after the notice", func(t *testing.T) {
		t.Parallel()
		bubble(t, fake.Options{}, func(t *testing.T, c *fake.Cloud, api *ec2.Client) {
			i := run(t, api, spot(types.SpotInstanceTypeOneTime))
			if i.InstanceLifecycle != types.InstanceLifecycleTypeSpot {
				t.Errorf("lifecycle %q", i.InstanceLifecycle)
			}
			_, err := api.StopInstances(t.Context(), &ec2.StopInstancesInput{InstanceIds: []string{*i.InstanceId}})
			if code(t, err) != "UnsupportedOperation" {
				t.Errorf("stop: %v", err)
			}
			if err := c.Interrupt(*i.InstanceId); err != nil {
				t.Fatal(err)
			}
			pass(119 * time.Second)
			await(t, api, *i.InstanceId, types.InstanceStateNameRunning)
			i = await(t, api, *i.InstanceId, types.InstanceStateNameTerminated)
			request := must[*ec2.DescribeSpotInstanceRequestsOutput](t)(api.DescribeSpotInstanceRequests(t.Context(), &ec2.DescribeSpotInstanceRequestsInput{
				Filters: []types.Filter{filter("tag:ours", "1")},
			})).SpotInstanceRequests[0]
			if *i.StateReason.Code != "Server.SpotInstanceTermination" || request.State != types.SpotInstanceStateClosed || living(c) != "" {
				t.Errorf("reason %s, request %s, left: %s", *i.StateReason.Code, request.State, living(c))
			}
		})
	})
	for name, end := range map[string]func(*testing.T, *ec2.Client, string){
		"stop": func(t *testing.T, api *ec2.Client, id string) {
			must[*ec2.StopInstancesOutput](t)(api.StopInstances(t.Context(), &ec2.StopInstancesInput{InstanceIds: []string{id}}))
		},
		"terminate": func(t *testing.T, api *ec2.Client, id string) { terminate(t, api, id) },
	} {
		t.Run("a persistent request launches another machine, without tags, after a "+name, func(t *testing.T) {
			t.Parallel()
			bubble(t, fake.Options{}, func(t *testing.T, c *fake.Cloud, api *ec2.Client) {
				i := run(t, api, spot(types.SpotInstanceTypePersistent))
				end(t, api, *i.InstanceId)
				pass(4 * time.Minute)
				ids := listed(t, api, filter("spot-instance-request-id", *i.SpotInstanceRequestId), filter("instance-state-name", "running"))
				if len(ids) != 1 || len(listed(t, api, filter("tag:ours", "*"))) != 1 {
					t.Fatalf("running: %v, tagged: %v", ids, listed(t, api, filter("tag:ours", "*")))
				}
				must[*ec2.CancelSpotInstanceRequestsOutput](t)(api.CancelSpotInstanceRequests(t.Context(), &ec2.CancelSpotInstanceRequestsInput{
					SpotInstanceRequestIds: []string{*i.SpotInstanceRequestId},
				}))
				terminate(t, api, ids[0], *i.InstanceId)
				pass(10 * time.Minute)
				if left := living(c); left != "" {
					t.Errorf("left after the request was cancelled: %s", left)
				}
			})
		})
	}
	t.Run("there is no room for spot alone", func(t *testing.T) {
		t.Parallel()
		bubble(t, fake.Options{}, func(t *testing.T, c *fake.Cloud, api *ec2.Client) {
			for _, zone := range []string{"us-east-1a", "us-east-1b", "us-east-1c"} {
				c.SpotCapacity(zone, "", 0)
			}
			_, err := api.RunInstances(t.Context(), launch(spot(types.SpotInstanceTypeOneTime)))
			if code(t, err) != "InsufficientInstanceCapacity" || living(c) != "" {
				t.Errorf("spot: %v, left: %s", err, living(c))
			}
			run(t, api)
		})
	})
}

func TestWhatGoesWrongByItself(t *testing.T) {
	t.Parallel()
	t.Run("a launch ends at once and says why", func(t *testing.T) {
		t.Parallel()
		bubble(t, fake.Options{}, func(t *testing.T, c *fake.Cloud, api *ec2.Client) {
			c.FailLaunches(1, "Client.InternalError")
			id := *must[*ec2.RunInstancesOutput](t)(api.RunInstances(t.Context(), launch())).Instances[0].InstanceId
			i := await(t, api, id, types.InstanceStateNameTerminated)
			if *i.StateReason.Code != "Client.InternalError" || living(c) != "" {
				t.Errorf("reason %s, left: %s", *i.StateReason.Code, living(c))
			}
		})
	})
	t.Run("a key that is not there, or no more disk space, show only then", func(t *testing.T) {
		t.Parallel()
		bubble(t, fake.Options{MaxVolumeGB: 40}, func(t *testing.T, _ *fake.Cloud, api *ec2.Client) {
			for want, ebs := range map[string]*types.EbsBlockDevice{
				"Client.InternalError":       {Encrypted: aws.Bool(true), KmsKeyId: aws.String("none"), VolumeSize: aws.Int32(10)},
				"Client.VolumeLimitExceeded": {VolumeSize: aws.Int32(50)},
			} {
				out := must[*ec2.RunInstancesOutput](t)(api.RunInstances(t.Context(), launch(func(in *ec2.RunInstancesInput) {
					in.BlockDeviceMappings = []types.BlockDeviceMapping{{DeviceName: aws.String("/dev/sda1"), Ebs: ebs}}
				})))
				if i := await(t, api, *out.Instances[0].InstanceId, types.InstanceStateNameTerminated); *i.StateReason.Code != want {
					t.Errorf("reason %s, want %s", *i.StateReason.Code, want)
				}
			}
		})
	})
	t.Run("a host fails: impaired, then stopped, and it can be started", func(t *testing.T) {
		t.Parallel()
		bubble(t, fake.Options{}, func(t *testing.T, c *fake.Cloud, api *ec2.Client) {
			id := *run(t, api).InstanceId
			if err := c.HostFailure(id); err != nil {
				t.Fatal(err)
			}
			s := must[*ec2.DescribeInstanceStatusOutput](t)(api.DescribeInstanceStatus(t.Context(), &ec2.DescribeInstanceStatusInput{InstanceIds: []string{id}})).InstanceStatuses[0]
			if s.SystemStatus.Status != types.SummaryStatusImpaired || len(s.Events) != 1 || s.Events[0].Code != types.EventCodeInstanceRetirement {
				t.Errorf("status %+v", s)
			}
			await(t, api, id, types.InstanceStateNameStopped)
			must[*ec2.StartInstancesOutput](t)(api.StartInstances(t.Context(), &ec2.StartInstancesInput{InstanceIds: []string{id}}))
			await(t, api, id, types.InstanceStateNameRunning)
		})
	})
	for behaviour, want := range map[types.ShutdownBehavior]types.InstanceStateName{
		"": types.InstanceStateNameStopped, types.ShutdownBehaviorTerminate: types.InstanceStateNameTerminated,
	} {
		t.Run("a guest shuts down: "+string(want), func(t *testing.T) {
			t.Parallel()
			bubble(t, fake.Options{}, func(t *testing.T, c *fake.Cloud, api *ec2.Client) {
				id := *run(t, api, func(in *ec2.RunInstancesInput) { in.InstanceInitiatedShutdownBehavior = behaviour }).InstanceId
				if err := c.GuestShutdown(id); err != nil {
					t.Fatal(err)
				}
				await(t, api, id, want)
			})
		})
	}
}

func TestTheConsole(t *testing.T) {
	t.Parallel()
	bubble(t, fake.Options{}, func(t *testing.T, c *fake.Cloud, api *ec2.Client) {
		id := *run(t, api).InstanceId
		if err := c.Console(id, "cloud-init: failed at 3\n"); err != nil {
			t.Fatal(err)
		}
		output := func(latest bool) string {
			out := must[*ec2.GetConsoleOutputOutput](t)(api.GetConsoleOutput(t.Context(), &ec2.GetConsoleOutputInput{InstanceId: &id, Latest: &latest}))
			text, err := base64.StdEncoding.DecodeString(aws.ToString(out.Output))
			if err != nil {
				t.Fatal(err)
			}
			return string(text)
		}
		if got := output(true); got != "" {
			t.Errorf("just booted: %q", got)
		}
		pass(20 * time.Second)
		if latest, cached := output(true), output(false); latest != "cloud-init: failed at 3\n" || cached != "" {
			t.Errorf("soon: %q and, not the latest, %q", latest, cached)
		}
		pass(200 * time.Second)
		if got := output(false); got == "" {
			t.Error("later there is nothing yet")
		}
	})
}
