package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	pb "cairn/proto/cairn/v1"
)

// --notify-test says whether hooks work; wrong hooks are wrong usage.
func TestHooksOnTheCommandLine(t *testing.T) {
	got := make(chan http.Header, 10)
	r := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/bad" {
			w.WriteHeader(http.StatusTeapot)
		}
		got <- q.Header
	}))
	defer r.Close()
	dir := t.TempDir()
	secret, program := filepath.Join(dir, "secret"), filepath.Join(dir, "program")
	if err := os.WriteFile(secret, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, []byte("#!/bin/sh\ntest $CAIRN_EVENT = test\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		status int
		says   string
		args   []string
	}{
		{0, "2 hooks took", []string{"--webhook", r.URL, "--webhook-secret", secret, "--hook", program, "--notify-test"}},
		{1, "418", []string{"--webhook", r.URL + "/bad", "--webhook", r.URL, "--notify-test"}},
		{2, "no hooks", []string{"--notify-test"}},
		{2, "--webhook", []string{"--data", "x", "--webhook", "example.org"}},
		{2, "--webhook", []string{"--data", "x", "--webhook", r.URL, "--webhook", r.URL}},
		{2, "--webhook-secret", []string{"--data", "x", "--webhook-secret", secret}},
		{2, "secret", []string{"--data", "x", "--webhook", r.URL, "--webhook-secret", secret + "x"}},
		{2, "--hook", []string{"--data", "x", "--hook", secret}},
		{2, "--notify", []string{"--data", "x", "--notify", "failed,rubbish"}},
		{2, "--metrics", []string{"--data", "x", "--metrics", "localhost"}},
		{2, "--log-format", []string{"--data", "x", "--log-format", "xml"}},
	} {
		out, err := command(c.args...).CombinedOutput()
		if code(err) != c.status || !strings.Contains(string(out), c.says) {
			t.Errorf("%v: %v: %s", c.args, err, out)
		}
	}
	if h := <-got; h.Get("Cairn-Event") != "test" || !strings.HasPrefix(h.Get("Cairn-Signature"), "t=") {
		t.Errorf("header %v", h)
	}
}

// A real server serves metrics, logs JSON, and knows who calls.
func TestObserved(t *testing.T) {
	dir := t.TempDir()
	d := start(t, "--data", filepath.Join(dir, "data"), "--metrics", "127.0.0.1:0", "--log-format", "json", "--verbose")
	conn := dial(t, d.address())
	line, err := d.lines.ReadString('\n')
	url, ok := strings.CutPrefix(strings.TrimSpace(line), "cairnd: metrics on ")
	if err != nil || !ok {
		t.Fatalf("line %q, %v", line, err)
	}
	audit := pb.NewAuditServiceClient(conn)
	if _, err := pb.NewVaultServiceClient(conn).CreateVault(t.Context(), &pb.CreateVaultRequest{Parent: "subscriptions/default", VaultId: "v1"}); err != nil {
		t.Fatal(err)
	}
	all, err := audit.ListAuditRecords(t.Context(), &pb.ListAuditRecordsRequest{Parent: "subscriptions/default"})
	if err != nil || len(all.AuditRecords) != 1 || all.AuditRecords[0].Actor != fmt.Sprintf("uid:%d", os.Getuid()) {
		t.Errorf("audit %v, %v", all, err)
	}
	for _, c := range []struct{ url, want string }{
		{url, "cairn_vault_available{vault=\"subscriptions/default/vaults/v1\"} 1\n"},
		{url, "process_open_fds"},
		{strings.Replace(url, "/metrics", "/healthz", 1), "ok\n"},
	} {
		resp, err := http.Get(c.url)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != 200 || !strings.Contains(string(b), c.want) {
			t.Errorf("%s: %s, %v", c.url, b, err)
		}
	}
	if err := d.stop(os.Interrupt); err != nil {
		t.Errorf("stopped with %v", err)
	}
	for _, line := range strings.Split(strings.TrimSpace(d.stderr()), "\n") {
		if !json.Valid([]byte(line)) {
			t.Errorf("log line %s", line)
		}
	}
}
