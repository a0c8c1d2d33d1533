/* Any flavour of libcurl, linked by its file's name: libcurl URL CERTIFICATE UPLOAD */
#include <curl/curl.h>
#include <stdio.h>
#include <string.h>

static size_t discard(char *data, size_t size, size_t count, void *user)
{
	(void)data, (void)user;
	return size * count;
}

int main(int argc, char **argv)
{
	CURL *curl = curl_easy_init();
	FILE *upload = fopen(argv[3], "rb");
	char url[256];
	long length;

	if (argc != 4 || !curl || !upload)
		return 2;
	fseek(upload, 0, SEEK_END);
	length = ftell(upload);
	rewind(upload);
	curl_easy_setopt(curl, CURLOPT_CAINFO, argv[2]);
	curl_easy_setopt(curl, CURLOPT_FAILONERROR, 1L);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, discard);
	snprintf(url, sizeof(url), "%s/download", argv[1]);
	curl_easy_setopt(curl, CURLOPT_URL, url);
	if (curl_easy_perform(curl))
		return 1;
	snprintf(url, sizeof(url), "%s/upload/body", argv[1]);
	curl_easy_setopt(curl, CURLOPT_URL, url);
	curl_easy_setopt(curl, CURLOPT_UPLOAD, 1L);
	curl_easy_setopt(curl, CURLOPT_READDATA, upload);
	curl_easy_setopt(curl, CURLOPT_INFILESIZE_LARGE, (curl_off_t)length);
	if (curl_easy_perform(curl))
		return 1;
	curl_easy_cleanup(curl);
	return 0;
}
