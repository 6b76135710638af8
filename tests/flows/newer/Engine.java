import io.camunda.zeebe.process.test.engine.EngineFactory;

/** An engine in memory with a gRPC gateway on this port; it says so once it serves, and ends with its process. */
public class Engine {
    public static void main(String[] arguments) throws InterruptedException {
        var engine = EngineFactory.create(Integer.parseInt(arguments[0]));
        engine.start();
        System.out.println("serving");
        Thread.currentThread().join();
    }
}
