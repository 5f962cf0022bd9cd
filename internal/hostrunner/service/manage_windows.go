package service

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/svc"
	"golang.org/x/sys/windows/svc/mgr"
)

// Render shows how the service would be made by hand; there is no file.
func Render(s Spec) (path string, text []byte, err error) {
	text, err = Windows(s)
	return "", text, err
}

// Install registers the service and starts it; it is started again at each
// boot, and when it fails. One of that name is replaced.
func Install(ctx context.Context, s Spec) (path string, err error) {
	if err := s.Check(); err != nil {
		return "", err
	}
	if _, err := Uninstall(ctx, s); err != nil {
		return "", err
	}
	m, err := mgr.Connect()
	if err != nil {
		return "", fmt.Errorf("service manager: %w; run as administrator", err)
	}
	defer m.Disconnect()
	conf := mgr.Config{StartType: mgr.StartAutomatic, DisplayName: s.Description, ServiceStartName: s.User}
	made, err := m.CreateService(s.Name, s.Program, conf, s.Args...)
	if err != nil {
		return "", fmt.Errorf("create service %s: %w", s.Name, err)
	}
	defer made.Close()
	again := []mgr.RecoveryAction{{Type: mgr.ServiceRestart, Delay: 2 * time.Second}}
	if err := made.SetRecoveryActions(again, 60); err != nil {
		return "", fmt.Errorf("service %s: %w", s.Name, err)
	}
	if err := made.Start(); err != nil {
		return "", fmt.Errorf("service %s is made, but not started: %w", s.Name, err)
	}
	return s.Name, nil
}

// Uninstall stops the service and removes it. That there is none is no error.
func Uninstall(ctx context.Context, s Spec) (path string, err error) {
	m, err := mgr.Connect()
	if err != nil {
		return "", fmt.Errorf("service manager: %w; run as administrator", err)
	}
	defer m.Disconnect()
	old, err := m.OpenService(s.Name)
	if errors.Is(err, windows.ERROR_SERVICE_DOES_NOT_EXIST) {
		return s.Name, nil
	}
	if err != nil {
		return "", fmt.Errorf("service %s: %w", s.Name, err)
	}
	defer old.Close()
	if _, err := old.Control(svc.Stop); err != nil && !errors.Is(err, windows.ERROR_SERVICE_NOT_ACTIVE) {
		return "", fmt.Errorf("stop service %s: %w", s.Name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, s.StopTime)
	defer cancel()
	for {
		status, err := old.Query()
		if err != nil || status.State == svc.Stopped {
			break
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("service %s does not stop: %w", s.Name, context.Cause(ctx))
		case <-time.After(time.Second):
		}
	}
	if err := old.Delete(); err != nil {
		return "", fmt.Errorf("remove service %s: %w", s.Name, err)
	}
	return s.Name, nil
}
