package notify

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"
)

// Hook is told of events: a Webhook or a Command.
type Hook interface {
	// ID is the same over restarts for the same hook, and different for others.
	ID() string
	// String is for the log, and has no secrets.
	String() string
	// Deliver hands over an event as JSON. An error that matches ErrAway says
	// that the hook took no notice of it.
	Deliver(ctx context.Context, e Event, body []byte) error
}

// ErrAway: the hook cannot be reached, for any event.
var ErrAway = errors.New("not reached")

func away(err error) error { return fmt.Errorf("%w: %w", ErrAway, err) }

// answerTime is how long a webhook has to answer.
const answerTime = 10 * time.Second

// maxSecret is the size of a secret in bytes.
const maxSecret = 4096

// Webhook is a URL to which events are posted.
type Webhook struct {
	url    *url.URL
	secret string // file
	client *http.Client
	now    func() time.Time
}

// NewWebhook makes a hook of an http or https URL. secret, if not "", is a file
// with the key of signatures; white space around it does not count. It is read
// for every event, so that it can be changed.
func NewWebhook(address, secret string) (*Webhook, error) {
	u, err := url.Parse(address)
	switch {
	case err != nil:
		return nil, errors.New("webhook: not a URL") // which may have a password in it
	case u.Scheme != "http" && u.Scheme != "https", u.Host == "", u.Fragment != "":
		return nil, fmt.Errorf("webhook %q: must be a URL such as https://example.com/cairn", u.Redacted())
	}
	w := &Webhook{url: u, secret: secret, now: time.Now}
	if _, err := w.key(); err != nil {
		return nil, fmt.Errorf("webhook %s: %w", w, err)
	}
	w.client = &http.Client{
		Timeout: answerTime,
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, ForceAttemptHTTP2: true,
			MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return w, nil
}

// ID is made of the URL.
func (w *Webhook) ID() string { return hookID("webhook", w.url.String()) }

// String is the URL without a password and without what follows the path, where
// tokens are.
func (w *Webhook) String() string {
	u := *w.url
	if u.RawQuery != "" {
		u.RawQuery = "…"
	}
	return u.Redacted()
}

// key reads the secret; nil if there is none.
func (w *Webhook) key() ([]byte, error) {
	if w.secret == "" {
		return nil, nil
	}
	f, err := os.Open(w.secret)
	if err != nil {
		return nil, fmt.Errorf("secret: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return nil, fmt.Errorf("secret: %w", err)
	}
	b = bytes.TrimSpace(b)
	if len(b) == 0 || len(b) > maxSecret {
		return nil, fmt.Errorf("secret: %s must have from 1 to %d bytes", w.secret, maxSecret)
	}
	return b, nil
}

// Deliver posts the event.
func (w *Webhook) Deliver(ctx context.Context, e Event, body []byte) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url.String(), bytes.NewReader(body))
	if err != nil {
		return away(err)
	}
	key, err := w.key()
	if err != nil {
		return away(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "cairn")
	r.Header.Set("Cairn-Event", e.Type)
	r.Header.Set("Cairn-Event-Id", e.ID)
	if key != nil {
		r.Header.Set("Cairn-Signature", sign(key, w.now(), body))
	}
	resp, err := w.client.Do(r)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // without the URL
		}
		return away(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("answered %s", resp.Status)
	}
	return nil
}

// sign makes the value of Cairn-Signature.
func sign(key []byte, at time.Time, body []byte) string {
	t := strconv.FormatInt(at.Unix(), 10)
	h := hmac.New(sha256.New, key)
	h.Write([]byte(t + "."))
	h.Write(body)
	return "t=" + t + ",v1=" + hex.EncodeToString(h.Sum(nil))
}

func hookID(kind, what string) string {
	h := sha256.Sum256([]byte(what))
	return kind + ":" + hex.EncodeToString(h[:8])
}
