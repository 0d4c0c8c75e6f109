package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
