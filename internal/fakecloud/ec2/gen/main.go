// Command gen writes the reduced model of the EC2 API that the fake checks
// requests by and writes answers by: the shapes of the operations it knows, from
// Amazon's own model in aws-sdk-go, with what the requests of aws-sdk-go-v2 have
// in addition. It reads both from the module cache, and downloads the first,
// which is not among the modules of this project, where it is missing.
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/vm-runner/drone-runner-aws/internal/fakecloud/ec2/model"
)

const (
	oldModule = "github.com/aws/aws-sdk-go@v1.55.8"
	oldFile   = "models/apis/ec2/2016-11-15/api-2.json"
	newModule = "github.com/aws/aws-sdk-go-v2/service/ec2"
)

const notice = "Derived from the API model of the AWS SDK for Go (aws-sdk-go v1.55.8) and from the AWS SDK for Go v2 (service/ec2), " +
	"Copyright 2015 Amazon.com, Inc. or its affiliates. All Rights Reserved. Copyright 2014-2015 Stripe, Inc. " +
	"Licensed under the Apache License, Version 2.0; reduced to the operations used and rearranged by internal/fakecloud/ec2/gen."

// operations are those the fake knows.
var operations = []string{
	"AttachVolume", "AuthorizeSecurityGroupIngress", "CancelCapacityReservation", "CancelSpotInstanceRequests",
	"CreateCapacityReservation", "CreateSecurityGroup", "CreateTags", "CreateVolume", "DeleteSecurityGroup", "DeleteTags",
	"DeleteVolume", "DescribeAccountAttributes", "DescribeAvailabilityZones", "DescribeCapacityReservations", "DescribeImages",
	"DescribeInstanceStatus", "DescribeInstanceTypeOfferings", "DescribeInstanceTypes", "DescribeInstances",
	"DescribeNetworkInterfaces", "DescribeRegions", "DescribeSecurityGroups", "DescribeSpotInstanceRequests", "DescribeSubnets",
	"DescribeTags", "DescribeVolumes", "DescribeVpcs", "DetachVolume", "GetConsoleOutput", "ModifyInstanceAttribute",
	"RebootInstances", "RunInstances", "StartInstances", "StopInstances", "TerminateInstances",
}

func main() {
	out := flag.String("o", "model/model.json", "where the model is written")
	flag.Parse()
	if err := run(*out); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func run(out string) error {
	newer, err := newDir()
	if err != nil {
		return err
	}
	older, err := cached()
	if errors.Is(err, fs.ErrNotExist) {
		older, err = download()
	}
	if err != nil {
		return err
	}
	text, err := generate(older, newer)
	if err != nil {
		return err
	}
	return os.WriteFile(out, text, 0o644)
}

// generate is the text of the reduced model, from the folders of the older and
// the newer module.
func generate(older, newer string) ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(older, filepath.FromSlash(oldFile)))
	if err != nil {
		return nil, err
	}
	v1, err := readOld(text)
	if err != nil {
		return nil, err
	}
	v2, err := readNew(newer)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(text)
	m := &model.Model{
		Notice: notice, Namespace: v1.Metadata.XMLNamespace, Version: v1.Metadata.APIVersion,
		Source: oldModule + "/" + oldFile + " sha256:" + hex.EncodeToString(sum[:]),
		Ops:    map[string]model.Op{}, Requests: map[string]*model.Shape{}, Answers: map[string]*model.Shape{},
	}
	for _, name := range operations {
		if err := v1.add(m, v2, name); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return write(m)
}

// write is the model's text, a shape a line, so that differences can be read.
func write(m *model.Model) ([]byte, error) {
	compact, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	var top map[string]json.RawMessage
	if err := json.Unmarshal(compact, &top); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.WriteString("{\n")
	for i, key := range []string{"notice", "source", "namespace", "version", "ops", "requests", "answers"} {
		if i > 0 {
			b.WriteString(",\n")
		}
		if top[key][0] != '{' {
			fmt.Fprintf(&b, "%q: %s", key, top[key])
			continue
		}
		fmt.Fprintf(&b, "%q: {\n", key)
		var inner map[string]json.RawMessage
		if err := json.Unmarshal(top[key], &inner); err != nil {
			return nil, err
		}
		for j, name := range sorted(inner) {
			if j > 0 {
				b.WriteString(",\n")
			}
			fmt.Fprintf(&b, "%q: %s", name, inner[name])
		}
		b.WriteString("\n}")
	}
	b.WriteString("\n}\n")
	return b.Bytes(), nil
}

// cached is the older module's folder in the module cache.
func cached() (string, error) {
	out, err := exec.Command("go", "env", "GOMODCACHE").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMODCACHE: %w", err)
	}
	dir := filepath.Join(strings.TrimSpace(string(out)), filepath.FromSlash(oldModule))
	_, err = os.Stat(filepath.Join(dir, filepath.FromSlash(oldFile)))
	return dir, err
}

// download fetches the older module without making it one of this project's.
func download() (string, error) {
	out, err := exec.Command("go", "mod", "download", "-json", oldModule).Output()
	if err != nil {
		return "", fmt.Errorf("go mod download %s: %w", oldModule, err)
	}
	var got struct{ Dir string }
	if err := json.Unmarshal(out, &got); err != nil {
		return "", err
	}
	return got.Dir, nil
}

// newDir is the newer module's folder.
func newDir() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", newModule).Output()
	if err != nil {
		return "", fmt.Errorf("go list %s: %w", newModule, err)
	}
	return strings.TrimSpace(string(out)), nil
}
