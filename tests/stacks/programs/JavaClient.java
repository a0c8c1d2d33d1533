// Java's HttpClient over JSSE: java JavaClient.java URL CERTIFICATE UPLOAD
import java.io.FileInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

public class JavaClient {
    public static void main(String[] arguments) throws Exception {
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null);
        try (FileInputStream input = new FileInputStream(arguments[1])) {
            store.setCertificateEntry("test", CertificateFactory.getInstance("X.509").generateCertificate(input));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(store);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, trust.getTrustManagers(), null);
        HttpClient client = HttpClient.newBuilder().sslContext(context).build();
        client.send(HttpRequest.newBuilder(URI.create(arguments[0] + "/download")).build(),
            HttpResponse.BodyHandlers.ofByteArray());
        client.send(HttpRequest.newBuilder(URI.create(arguments[0] + "/upload/body"))
            .PUT(HttpRequest.BodyPublishers.ofFile(Path.of(arguments[2]))).build(),
            HttpResponse.BodyHandlers.discarding());
    }
}
