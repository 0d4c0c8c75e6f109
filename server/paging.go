package server

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"sort"

	pb "cairn/proto/cairn/v1"
)

const (
	defaultPageSize = 50
	maxPageSize     = 1000
	tokenTagSize    = 12
)

// pageSize checks a page_size and gives the number of results to answer.
func (f *fields) pageSize(n int32) int {
	switch {
	case n < 0:
		f.add("page_size", "is %d; it must not be negative", n)
		return 0
	case n == 0:
		return defaultPageSize
	}
	return min(int(n), maxPageSize)
}

// pageToken makes the token that goes on behind key. list stands for the list
// and its filter: only the same list takes the token. A token is the first 12
// bytes of HMAC-SHA256 over list, a zero byte and key, then key, in base64.
func (s *Server) pageToken(list, key string) string {
	return base64.RawURLEncoding.EncodeToString(append(s.tokenTag(list, key), key...))
}

func (s *Server) tokenTag(list, key string) []byte {
	h := hmac.New(sha256.New, s.tokenKey)
	h.Write([]byte(list))
	h.Write([]byte{0})
	h.Write([]byte(key))
	return h.Sum(nil)[:tokenTagSize]
}

// pageStart gives the key behind which the list goes on; "" for the beginning.
func (s *Server) pageStart(list, token string) (key string, err error) {
	if token == "" {
		return "", nil
	}
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err == nil && len(b) > tokenTagSize {
		key = string(b[tokenTagSize:])
		if hmac.Equal(b[:tokenTagSize], s.tokenTag(list, key)) {
			return key, nil
		}
	}
	e := newError(pb.ErrorReason_ERROR_REASON_INVALID_PAGE_TOKEN,
		"page_token is not one that this list gave out; leave it empty to begin anew, and keep parent and filter while you page")
	var f fields
	f.add("page_token", "is not one that this list gave out")
	e.Fields = f.violations
	return "", e
}

// pageOf cuts a page out of a sorted list. list stands for the list and its
// filter, key for the place of an element in it.
func pageOf[T any](s *Server, list, token string, size int, all []T, key func(T) string) (page []T, next string, err error) {
	start, err := s.pageStart(list, token)
	if err != nil {
		return nil, "", err
	}
	from := sort.Search(len(all), func(i int) bool { return key(all[i]) > start })
	page = all[from:]
	if len(page) > size {
		page = page[:size]
		next = s.pageToken(list, key(page[size-1]))
	}
	return page, next, nil
}
